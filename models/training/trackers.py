"""Trackers of accelerate that follow a training, by name."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

PROJECT = "syncd-train"
OWN = "dvclive"
"""Not allowed: the published log is DVCLive's already, written without a look at git."""


class TrackerError(Exception):
    """A tracker that cannot be used; the message names those that can."""


def check_trackers(names: tuple[str, ...]) -> None:
    """TrackerError if one is not known to accelerate or its package is not installed."""
    known = sorted(set(LOGGER_TYPE_TO_CLASS) - {OWN})
    installed = {str(getattr(name, "value", name)) for name in get_available_trackers()}
    for name in names:
        if name not in known:
            raise TrackerError(f"runtime trackers names {name!r}; allowed: {', '.join(known)}")
        if name not in installed:
            here = ", ".join(own for own in known if own in installed) or "none"
            raise TrackerError(f"runtime trackers names {name}, and its package is not installed; installed: {here}")


@contextmanager
def tracked(accelerator: Accelerator, config: dict[str, Any]) -> Iterator[None]:
    """Inside, what is logged reaches the accelerator's trackers, which take numbers and text only."""
    if accelerator.log_with:
        plain = {name: value if isinstance(value, int | float | str) else str(value) for name, value in config.items()}
        Path(accelerator.logging_dir).mkdir(parents=True, exist_ok=True)
        accelerator.init_trackers(PROJECT, config=plain)
    try:
        yield
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()
