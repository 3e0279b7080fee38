"""`python fake_stage.py NAME`: what flows.stage does, on the fake stages and without Prefect."""

import sys
from pathlib import Path

from configs.load import load_runtime
from flows.console import stage_progress
from flows.engine import run_stage
from flows.errors import error_line
from flows.orphans import end_with_driver
from flows.runners import serial
from flows.workspace import write_last_run


def main(stage: str) -> int:
    end_with_driver()
    workspace, line = Path.cwd(), None
    try:
        with stage_progress(stage) as show:
            result = run_stage(stage, workspace, load_runtime(), serial, show.update, package="fake_tasks")
            show.finish(result)
    except Exception as error:
        line = error_line(error)
    write_last_run(workspace, stage, line)
    return 1 if line else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
