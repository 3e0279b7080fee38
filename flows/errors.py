"""Errors and warnings on the console: one clear line; a traceback where asked for, or for an error nobody foresaw."""

import errno
import os
import sys
import traceback

from data.outside_text import on_terminal

DEBUG_VARIABLE = "SYNCD_DEBUG"
OUR_PACKAGES = ("configs", "data", "flows", "models", "tasks")


def is_expected(error: BaseException) -> bool:
    """Whether the message was written for the user: the type is one of this project's own."""
    return type(error).__module__.split(".")[0] in OUR_PACKAGES


def warn(message: str) -> None:
    """One line for a reader of the run's log."""
    print(f"WARNING: {message}", file=sys.stderr, flush=True)


def error_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        place = f"{error.filename}: " if error.filename else ""
        return on_terminal(f"{place}no space left on the disk; free some space and run the same command again")
    expected = is_expected(error)
    if os.environ.get(DEBUG_VARIABLE) or not expected:
        traceback.print_exception(error)
    return on_terminal(str(error) if expected else f"{type(error).__name__}: {error}")
