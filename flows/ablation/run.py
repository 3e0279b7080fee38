"""Stages of an ablation as flows within one flow: so all of them, and their workers, share a server."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from configs.schema import Runtime

Result = TypeVar("Result")
RunStage = Callable[[str, Path], object]


def by_flows(name: str, runtime: Runtime, body: Callable[[RunStage], Result]) -> Result:
    """What `body` gives; it runs a stage of a workspace by calling its argument."""
    from prefect import flow
    from prefect.client.orchestration import get_client

    from flows.stage import run_stage_flow

    def within() -> Result:
        os.environ["PREFECT_API_URL"] = str(get_client(sync_client=True).api_url)
        return body(lambda stage, workspace: run_stage_flow(stage, workspace, runtime))

    return flow(within, name=name, persist_result=False)()
