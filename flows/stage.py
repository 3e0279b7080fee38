"""`python -m flows.stage NAME`: one stage as a Prefect flow. This is the command of every stage in dvc.yaml."""

import argparse
import os
import sys
from pathlib import Path

from configs.load import ConfigError, load_runtime
from configs.schema import Runtime
from flows.errors import error_line
from flows.orphans import end_with_driver
from flows.worker import RUN_ID_VARIABLE
from flows.workspace import find_workspace, run_environment, write_last_run


def run_stage_flow(stage: str, workspace: Path, runtime: Runtime) -> None:
    """Run a stage under Prefect with progress on the console; raises what the engine raises."""
    from prefect import flow

    from flows.console import stage_progress
    from flows.engine import run_stage

    def body(stage: str, workspace: str) -> None:
        with stage_progress(stage, runtime.log_level) as show:
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
    end_with_driver()
    run_id = os.environ.get(RUN_ID_VARIABLE, "")
    line = _run(options.stage, Path.cwd(), options.engine, run_id)
    told = _leave_word(options.stage, Path.cwd(), line)
    if line and not (run_id and told):
        print(f"ERROR: {line}", file=sys.stderr, flush=True)
    return 1 if line else 0


def _leave_word(stage: str, workspace: Path, line: str | None) -> bool:
    """Whether the outer flow, which shows the error, can read it in the work folder."""
    try:
        find_workspace(workspace)
        write_last_run(workspace, stage, line)
    except (ConfigError, OSError):
        return False
    return True


def _run(stage: str, folder: Path, engine: str, run_id: str) -> str | None:
    """The error as one line, or None."""
    try:
        workspace = find_workspace(folder)
        runtime = load_runtime()
        os.environ.update(run_environment(workspace, runtime, run_id))
        run = run_stage_flow if engine == "prefect" else run_stage_serially
        run(stage, workspace, runtime)
    except Exception as error:
        return error_line(error)
    return None


if __name__ == "__main__":
    sys.exit(main())
