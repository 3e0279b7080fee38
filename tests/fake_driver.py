"""`python fake_driver.py STAGE`: bring a fake stage up to date here, with the runner of SYNCD_RUNTIME."""

import sys
from pathlib import Path

from configs.load import load_runtime
from flows.engine import run_stage

if __name__ == "__main__":
    run_stage(sys.argv[1], Path.cwd(), load_runtime(), package="fake_tasks")
