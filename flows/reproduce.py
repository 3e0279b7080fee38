"""`dvc repro --single-item STAGE` that prints what the stage prints, and DVC's own reason if DVC fails.

    python -m flows.reproduce STAGE [--force]

DVC's command line has either its whole log or, with --quiet, not even its errors.
"""

import logging
import sys
from collections.abc import Iterator

from flows.orphans import end_with_driver

REASON = "dvc: "
"""Starts the one line on the standard error that says why DVC failed."""


def main(arguments: list[str]) -> int:
    from dvc.exceptions import DvcException
    from dvc.logger import set_loggers_level
    from dvc.repo import Repo

    end_with_driver()
    stage, force = arguments[0], "--force" in arguments[1:]
    try:
        with set_loggers_level(logging.CRITICAL), Repo() as repo:
            # The run cache is off, since receipts already spare finished work.
            repo.reproduce(targets=[stage], single_item=True, run_cache=False, force=force)
    except (DvcException, OSError) as error:
        print(REASON + ": ".join(dict.fromkeys(_texts(error))), file=sys.stderr)
        return 1
    return 0


def _texts(error: BaseException | None) -> Iterator[str]:
    """The messages of an error and its causes, in one line each."""
    while error is not None:
        yield " ".join(str(error).split()) or type(error).__name__
        error = error.__cause__ or error.__context__


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
