"""A finished run, made once for all tests of the audit."""

import shutil
from pathlib import Path

import pytest
from audited_workspace import STAGES, activate, run, write_pairs

from flows.audit.store import update


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    folder = tmp_path_factory.mktemp("audit")
    pairs = folder / "pairs.tar"
    write_pairs(pairs, 5)
    activate(folder, f"train.pairs={pairs}")
    run(folder, *STAGES)
    assert update(folder) == []
    return folder


@pytest.fixture
def workspace(finished: Path, tmp_path: Path) -> Path:
    """A copy to change. Tars are hard links elsewhere, so change files by replacing them."""
    return shutil.copytree(finished, tmp_path / "workspace", ignore=shutil.ignore_patterns(".prefect"))
