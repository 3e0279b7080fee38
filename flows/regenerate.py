"""The outer flow, `regenerate`: walk the stage graph, letting DVC decide for each stage whether it runs.

Import this module after the environment is set (flows.workspace.quiet_environment): Prefect reads it at import.
"""

import subprocess
import sys
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.states import Completed
from prefect.tasks import exponential_backoff

from configs.load import load_runtime
from flows.audit.store import update as update_audit_store
from flows.console import say
from flows.dvc_files import keep
from flows.graph import load_graph
from flows.plan import dvc_status
from flows.reproduce import REASON
from flows.stopping import end_group
from flows.worker import RUN_ID_VARIABLE, StageError, TransientStageError, is_transient
from flows.workspace import (
    choose_recipe,
    locked,
    prepare_workspace,
    queued_mark,
    read_last_run,
    refresh_inputs,
    run_environment,
)

BACK_OFF_SECONDS = 30.0
"""Pause before the first retry of a stage; it doubles from one to the next."""
OF_THIS_RUN = "PREFECT__"
"""Prefix of what a worker tells a flow run's process about itself; a stage is a flow run of its own."""
NOTHING = "NothingToDo"
"""Name of the state in which a flow run completes that found everything up to date."""


@dataclass(frozen=True)
class StageOutcome:
    stage: str
    ran: bool


@task(name="dvc repro", task_run_name="{stage}", persist_result=False)
def reproduce(stage: str, workspace: str, environment: dict[str, str]) -> StageOutcome:
    """`dvc repro --single-item STAGE` as a subprocess; StageError if it fails, TransientStageError if that may pass.

    A stage whose failed keys were queued again is forced: nothing that DVC tracks has changed, and it would bring back
    the old output. Whatever ends this function ends the stage.
    """
    command = [sys.executable, "-m", "flows.reproduce", stage]
    if queued_mark(Path(workspace), stage).exists():
        command.append("--force")
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=workspace, env=environment, process_group=0, **pipes) as process:
        reasons: list[str] = []
        forward = threading.Thread(target=_forward_errors, args=(process.stderr, reasons))
        forward.start()
        try:
            code = process.wait()
        except BaseException:
            end_group(process)
            raise
        finally:
            forward.join()
    last = read_last_run(Path(workspace), stage)
    ran = last.get("run_id") == environment[RUN_ID_VARIABLE]
    if code:
        reason = last.get("error") if ran else None
        by_dvc = "".join(f": {text}" for text in reasons)
        kind = TransientStageError if ran and last.get("transient") else StageError
        raise kind(reason or f"{stage}: DVC ended with {code}{by_dvc}; the same command resumes")
    return StageOutcome(stage, ran)


def _forward_errors(stream: IO[str] | None, reasons: list[str]) -> None:
    """Pass on what the stage prints; DVC's reason goes to `reasons`, for the one error at the end."""
    for line in stream or ():
        if line.startswith(REASON):
            reasons.append(line.removeprefix(REASON).strip())
        else:
            sys.stderr.write(line)
            sys.stderr.flush()


def _may_pass(task: Any, task_run: Any, state: Any) -> bool:
    """Whether a failed stage is worth another try (the signature is Prefect's)."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, BaseException) and is_transient(error)


@flow(name="regenerate", persist_result=False)
def regenerate(
    recipe: str | None = None,
    overrides: list[str] | None = None,
    workspace: str = ".",
    until: str | None = None,
    runtime: str | None = None,
    retries: int = 0,
    wait_minutes: float = 0,
) -> list[StageOutcome]:
    """Activate `recipe` (None: keep the active one) and bring the stages up to `until` up to date, in order.

    `runtime` is a name or path; None takes SYNCD_RUNTIME or the local runtime. `retries` of a stage that ends for a
    transient reason, beside those of its shards; `wait_minutes` at most for another run to leave the workspace.
    """
    folder = Path(workspace).resolve()
    with locked(folder, wait_minutes):
        activate(folder, recipe, overrides)
        outcomes = walk(folder, load_graph(folder).until(until), runtime, retries)
    if any(outcome.ran for outcome in outcomes):
        return outcomes
    return Completed(data=outcomes, name=NOTHING, message="every stage is up to date")  # type: ignore[return-value]


def activate(folder: Path, recipe: str | None, overrides: list[str] | None) -> None:
    """Make `recipe` the active one, if one is named, and record the digests of the files that it names."""
    if recipe is not None or overrides:
        prepare_workspace(folder, choose_recipe(folder, recipe, tuple(overrides or ())))
    refresh_inputs(folder)


def walk(folder: Path, stages: Sequence[str], runtime: str | None, retries: int = 0) -> list[StageOutcome]:
    """Bring `stages` up to date, which come in the order of the graph. The first error ends the walk."""
    inherited = run_environment(folder, load_runtime(runtime), run_id=str(uuid.uuid4()))
    environment = {name: value for name, value in inherited.items() if not name.startswith(OF_THIS_RUN)}
    environment["PREFECT_API_URL"] = str(get_client(sync_client=True).api_url)
    graph, changed = load_graph(folder), dvc_status(folder)
    again = reproduce.with_options(
        retries=retries, retry_delay_seconds=exponential_backoff(BACK_OFF_SECONDS), retry_condition_fn=_may_pass
    )
    outcomes: dict[str, StageOutcome] = {}
    for stage in stages:
        inputs_ran = any(outcomes[name].ran for name in graph.node(stage).inputs if name in outcomes)
        due = stage in changed or inputs_ran or queued_mark(folder, stage).exists()
        outcomes[stage] = again(stage, str(folder), environment) if due else StageOutcome(stage, ran=False)
        if due:
            keep(folder)
        if not outcomes[stage].ran:
            say(f"{stage}: {'restored from the DVC cache' if due else 'up to date'}")
    for note in update_audit_store(folder):
        say(f"WARNING: {note}")
    return list(outcomes.values())
