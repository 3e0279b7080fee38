"""One Prefect server for all runs, which takes longer to start than most stages, and one thread for each of their
workers: two that wait for each other are many times slower where other work wants the cores."""

from collections.abc import Iterator

import pytest

from configs.load import RUNTIME_VARIABLE, load_runtime


@pytest.fixture(scope="session", autouse=True)
def shared_server(prefect_server: str) -> str:
    return prefect_server


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        runtime = load_runtime("local").model_copy(update={"threads_per_worker": 1})
        patch.setenv(RUNTIME_VARIABLE, runtime.model_dump_json())
        yield
