"""One Prefect server for all runs: each would otherwise start one of its own, which takes longer than most stages."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def shared_server(prefect_server: str) -> str:
    return prefect_server
