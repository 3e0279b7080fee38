"""`python flow_stage.py NAME`: flows.stage under Prefect, on the fake stages."""

import functools
import sys

from flows import engine, stopping
from flows.stage import main

if __name__ == "__main__":
    engine.run_stage = functools.partial(engine.run_stage, package="fake_tasks")
    stopping.GRACE_SECONDS = 2.0
    sys.exit(main(sys.argv[1:]))
