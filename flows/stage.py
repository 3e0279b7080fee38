"""`python -m flows.stage NAME`: one stage as a Prefect flow. This is the command of every stage in dvc.yaml."""

import argparse
import functools
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from configs.errors import ConfigError
from configs.load import load_runtime
from configs.schema import Runtime
from flows.errors import error_line, warn
from flows.stopping import MESSAGE, exit_on_sigterm, workers_end_on_sigterm
from flows.worker import RUN_ID_VARIABLE, may_pass
from flows.workspace import find_workspace, run_environment, write_last_run

if TYPE_CHECKING:
    from flows.engine import Progress
    from flows.runners import Runner
    from flows.watching import Watcher


def run_stage_flow(stage: str, workspace: Path, runtime: Runtime) -> None:
    """Run a stage under Prefect, watched on the console and in its UI; raises what the engine raises."""
    from prefect import flow

    from flows.watching.artifacts import Artifacts

    def body(stage: str, workspace: str) -> None:
        folder = Path(workspace)
        with workers_end_on_sigterm():
            _run_watched(stage, folder, runtime, None, [Artifacts(folder, stage), *_watchers(stage, folder, runtime)])

    flow(body, name=f"stage {stage}", flow_run_name=stage, persist_result=False)(stage, str(workspace))


def run_stage_serially(stage: str, workspace: Path, runtime: Runtime) -> None:
    """The same stage in this process, one shard after the other, without Prefect."""
    from flows.runners import serial

    _run_watched(stage, workspace, runtime, serial, _watchers(stage, workspace, runtime))


def _watchers(stage: str, workspace: Path, runtime: Runtime) -> "list[Watcher]":
    """Those that runtime and environment ask for."""
    from flows.watching import lineage

    run_id = os.environ.get(RUN_ID_VARIABLE, "")
    found: list[Watcher] = []
    if runtime.metrics_folder is not None:
        from flows.watching.prometheus import MetricsFile

        found.append(MetricsFile(Path(runtime.metrics_folder), workspace, stage, run_id))
    if lineage.is_configured():
        found.append(lineage.Lineage(workspace, stage, run_id))
    return found


def _run_watched(
    stage: str, workspace: Path, runtime: Runtime, runner: "Runner | None", watchers: "list[Watcher]"
) -> None:
    from flows.console import stage_progress
    from flows.engine import run_stage

    with stage_progress(stage, runtime.log_level) as show:

        def tell(progress: "Progress") -> None:
            for watcher in (show, *watchers):
                watcher.update(progress)

        try:
            result = run_stage(stage, workspace, runtime, runner, on_progress=tell)
        except BaseException as error:
            _tell_end(stage, [functools.partial(watcher.fail, error) for watcher in watchers])
            raise
        _tell_end(stage, [functools.partial(watcher.finish, result) for watcher in (show, *watchers)])


def _tell_end(stage: str, words: Iterable[Callable[[], None]]) -> None:
    """Have every watcher told. One that cannot be changes neither how the stage ended nor what its error was."""

    for word in words:
        try:
            word()
        except Exception as error:
            warn(f"{stage}: its end was not told everywhere: {type(error).__name__}: {error}")


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
