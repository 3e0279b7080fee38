"""`python fake_stage.py NAME`: what flows.stage does, on the fake stages and without Prefect."""

import sys
from pathlib import Path

from configs.load import load_runtime
from flows.console import stage_progress
from flows.engine import run_stage
from flows.errors import error_line
from flows.runners import serial
from flows.stopping import MESSAGE, exit_on_sigterm
from flows.worker import may_pass
from flows.workspace import write_last_run


def main(stage: str) -> int:
    workspace, line, transient, code = Path.cwd(), None, False, 0
    exit_on_sigterm()
    try:
        with stage_progress(stage) as show:
            result = run_stage(stage, workspace, load_runtime(), serial, show.update, package="fake_tasks")
            show.finish(result)
    except Exception as error:
        line, transient, code = error_line(error), may_pass(error), 1
    except SystemExit as stop:
        line, code = f"{stage}: {MESSAGE}", int(stop.code or 0)
    write_last_run(workspace, stage, line, transient)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
