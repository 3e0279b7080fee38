"""Shared set-up: few threads, no network; one finished run and one Prefect server for all tests that need them."""

import atexit
import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DVC_NO_ANALYTICS", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")
# Ray reads it when it is imported, by whoever that is.
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace of the miniature as far as a checkpoint, taken into its audit store. Not to be changed."""
    from audited_workspace import STAGES, activate, run, write_pairs

    from flows.audit.store import update

    folder = tmp_path_factory.mktemp("audit")
    pairs = folder / "pairs.tar"
    write_pairs(pairs, 5)
    activate(folder, f"train.pairs={pairs}")
    run(folder, *STAGES)
    assert update(folder) == []
    return folder


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a Prefect server that lives as long as the tests (its start takes seconds)."""
    from flows.workspace import quiet_environment

    home: Path = tmp_path_factory.mktemp("prefect")
    os.environ.update(quiet_environment(home))
    from prefect.client.orchestration import get_client
    from prefect.testing.utilities import prefect_test_harness

    # The server outlives the tests: what Prefect still has to send when Python ends would otherwise wait for it.
    server = contextlib.ExitStack()
    atexit.register(server.close)
    server.enter_context(prefect_test_harness(server_startup_timeout=600))
    # Registered last, so it runs before Prefect's own: nothing is printed below the summary of the tests.
    atexit.register(logging.disable)
    address = str(get_client(sync_client=True).api_url)
    os.environ["PREFECT_API_URL"] = address
    yield address
    del os.environ["PREFECT_API_URL"]
