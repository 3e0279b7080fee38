"""`python -m flows.stage NAME`: one stage as a Prefect flow. This is the command of every stage in dvc.yaml."""

import argparse
import os
import sys
from pathlib import Path

from configs.load import ConfigError, load_runtime
from configs.schema import Runtime
from flows.errors import error_line
from flows.stopping import MESSAGE, exit_on_sigterm, workers_end_on_sigterm
from flows.worker import RUN_ID_VARIABLE, may_pass
from flows.workspace import find_workspace, run_environment, write_last_run


def run_stage_flow(stage: str, workspace: Path, runtime: Runtime) -> None:
    """Run a stage under Prefect with progress on the console; raises what the engine raises."""
    from prefect import flow

    from flows.console import stage_progress
    from flows.engine import run_stage

    def body(stage: str, workspace: str) -> None:
        with workers_end_on_sigterm(), stage_progress(stage, runtime.log_level) as show:
            show.finish(run_stage(stage, Path(workspace), runtime, on_progress=show.update))

    flow(body, name=f"stage {stage}", flow_run_name=stage, persist_result=False)(stage, str(workspace))


def run_stage_serially(stage: str, workspace: Path, runtime: Runtime) -> None:
    """The same stage in this process, one shard after the other, without Prefect."""
    from flows.console import stage_progress
    from flows.engine import run_stage
    from flows.runners import serial

    with stage_progress(stage, runtime.log_level) as show:
        show.finish(run_stage(stage, workspace, runtime, runner=serial, on_progress=show.update))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m flows.stage", description=__doc__)
    parser.add_argument("stage")
    parser.add_argument("--engine", choices=("prefect", "serial"), default="prefect", help="serial: no Prefect")
    options = parser.parse_args(arguments)
    exit_on_sigterm()
    run_id = os.environ.get(RUN_ID_VARIABLE, "")
    try:
        error = _run(options.stage, Path.cwd(), options.engine, run_id)
        line, transient, code = error_line(error) if error else None, may_pass(error), 1 if error else 0
    except SystemExit as stop:
        line, transient, code = f"{options.stage}: {MESSAGE}", False, stop.code
    told = _leave_word(options.stage, Path.cwd(), line, transient)
    if line and not (run_id and told):
        print(f"ERROR: {line}", file=sys.stderr, flush=True)
    return code


def _leave_word(stage: str, workspace: Path, line: str | None, transient: bool) -> bool:
    """Whether the outer flow, which shows the error, can read it in the work folder."""
    try:
        find_workspace(workspace)
        write_last_run(workspace, stage, line, transient)
    except (ConfigError, OSError):
        return False
    return True


def _run(stage: str, folder: Path, engine: str, run_id: str) -> Exception | None:
    """The error that it ended with."""
    try:
        workspace = find_workspace(folder)
        runtime = load_runtime()
        os.environ.update(run_environment(workspace, runtime, run_id))
        run = run_stage_flow if engine == "prefect" else run_stage_serially
        run(stage, workspace, runtime)
    except Exception as error:
        return error
    return None


if __name__ == "__main__":
    sys.exit(main())
