"""`python -m flows.stage NAME`: one stage as a Prefect flow. This is the command of every stage in dvc.yaml."""

import argparse
import os
import sys
import traceback
from pathlib import Path

from configs.schema import ConfigError, Runtime, load_runtime
from data.shards import ShardError
from flows.worker import StageError
from flows.workspace import find_workspace, quiet_environment, run_environment

DEBUG_VARIABLE = "SYNCD_DEBUG"
EXPECTED_ERRORS = (ConfigError, ShardError, StageError)


def run_stage_flow(stage: str, workspace: Path, runtime: Runtime) -> None:
    """Run a stage under Prefect with progress on the console; raises what the engine raises."""
    os.environ.update(run_environment(workspace, runtime, os.environ.get("SYNCD_RUN_ID", "")))
    from prefect import flow

    from flows.console import stage_progress
    from flows.engine import run_stage

    def body(stage: str, workspace: str) -> None:
        with stage_progress(stage) as show:
            show.finish(run_stage(stage, Path(workspace), runtime, on_progress=show.update))

    flow(body, name=f"stage {stage}", flow_run_name=stage, log_prints=False, persist_result=False)(
        stage, str(workspace)
    )


def report_error(error: BaseException) -> None:
    """One clear line; the traceback too if it is asked for or the error is not one we know."""
    if os.environ.get(DEBUG_VARIABLE) or not isinstance(error, EXPECTED_ERRORS):
        traceback.print_exception(error)
    kind = "" if isinstance(error, EXPECTED_ERRORS) else f"{type(error).__name__}: "
    print(f"ERROR: {kind}{error}", file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m flows.stage", description=__doc__)
    parser.add_argument("stage")
    parser.add_argument("--engine", choices=("prefect", "serial"), default="prefect", help="serial: no Prefect")
    options = parser.parse_args(arguments)
    try:
        workspace = find_workspace(Path.cwd())
        runtime = load_runtime()
        if options.engine == "serial":
            run_stage_serially(options.stage, workspace, runtime)
        else:
            run_stage_flow(options.stage, workspace, runtime)
    except Exception as error:
        report_error(error)
        return 1
    return 0


def run_stage_serially(stage: str, workspace: Path, runtime: Runtime) -> None:
    """The same stage in this process, one shard after the other, without Prefect."""
    for name, value in quiet_environment(workspace).items():
        os.environ.setdefault(name, value)
    from flows.console import stage_progress
    from flows.engine import run_stage
    from flows.runners import serial

    with stage_progress(stage) as show:
        show.finish(run_stage(stage, workspace, runtime, runner=serial, on_progress=show.update))


if __name__ == "__main__":
    sys.exit(main())
