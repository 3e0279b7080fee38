"""The outer flow, `regenerate`: walk the stage graph, letting DVC decide for each stage whether it runs.

Import this module after the environment is set (flows.workspace.quiet_environment): Prefect reads it at import.
"""

import subprocess
import sys
import threading
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from prefect import flow, task
from prefect.client.orchestration import get_client

from configs.load import load_runtime
from flows.audit.store import update as update_audit_store
from flows.console import say
from flows.graph import load_graph
from flows.plan import dvc_status
from flows.reproduce import REASON
from flows.worker import RUN_ID_VARIABLE, StageError
from flows.workspace import (
    choose_recipe,
    locked,
    prepare_workspace,
    queued_mark,
    read_last_run,
    refresh_inputs,
    run_environment,
)


@dataclass(frozen=True)
class StageOutcome:
    stage: str
    ran: bool


@task(name="dvc repro", task_run_name="{stage}", persist_result=False)
def reproduce(stage: str, workspace: str, environment: dict[str, str]) -> StageOutcome:
    """`dvc repro --single-item STAGE` as a subprocess; StageError if it fails.

    A stage whose failed keys were queued again is forced: nothing that DVC tracks has changed, and it would bring back
    the old output.
    """
    command = [sys.executable, "-m", "flows.reproduce", stage]
    if queued_mark(Path(workspace), stage).exists():
        command.append("--force")
    with subprocess.Popen(command, cwd=workspace, env=environment, stderr=subprocess.PIPE, text=True) as process:
        reasons: list[str] = []
        forward = threading.Thread(target=_forward_errors, args=(process.stderr, reasons))
        forward.start()
        code = process.wait()
        forward.join()
    last = read_last_run(Path(workspace), stage)
    ran = last.get("run_id") == environment[RUN_ID_VARIABLE]
    if code:
        reason = last.get("error") if ran else None
        by_dvc = "".join(f": {text}" for text in reasons)
        raise StageError(reason or f"{stage}: DVC ended with {code}{by_dvc}; the same command resumes")
    return StageOutcome(stage, ran)


def _forward_errors(stream: IO[str] | None, reasons: list[str]) -> None:
    """Pass on what the stage prints; DVC's reason goes to `reasons`, for the one error at the end."""
    for line in stream or ():
        if line.startswith(REASON):
            reasons.append(line.removeprefix(REASON).strip())
        else:
            sys.stderr.write(line)
            sys.stderr.flush()


@flow(name="regenerate", persist_result=False)
def regenerate(
    recipe: str | None = None,
    overrides: list[str] | None = None,
    workspace: str = ".",
    until: str | None = None,
    runtime: str | None = None,
) -> list[StageOutcome]:
    """Activate `recipe` (None: keep the active one) and bring the stages up to `until` up to date, in order.

    `runtime` is a name or path; None takes SYNCD_RUNTIME or the local runtime.
    """
    folder = Path(workspace).resolve()
    with locked(folder):
        return _regenerate(folder, recipe, overrides, until, runtime)


def _regenerate(
    folder: Path, recipe: str | None, overrides: list[str] | None, until: str | None, runtime: str | None
) -> list[StageOutcome]:
    if recipe is not None or overrides:
        prepare_workspace(folder, choose_recipe(folder, recipe, tuple(overrides or ())))
    refresh_inputs(folder)
    environment = run_environment(folder, load_runtime(runtime), run_id=str(uuid.uuid4()))
    environment["PREFECT_API_URL"] = str(get_client(sync_client=True).api_url)
    graph, changed = load_graph(folder), dvc_status(folder)
    outcomes: dict[str, StageOutcome] = {}
    for stage in graph.until(until):
        inputs_ran = any(outcomes[name].ran for name in graph.node(stage).inputs)
        due = stage in changed or inputs_ran or queued_mark(folder, stage).exists()
        outcomes[stage] = reproduce(stage, str(folder), environment) if due else StageOutcome(stage, ran=False)
        if not outcomes[stage].ran:
            say(f"{stage}: {'restored from the DVC cache' if due else 'up to date'}")
    for note in update_audit_store(folder):
        say(f"WARNING: {note}")
    return list(outcomes.values())
