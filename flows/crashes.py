"""Why shards crash, in one word each, and how often: crashes.jsonl in the work folder of a stage.

A crash ends an attempt at a shard; a key that cannot be made is a failure, which the receipt holds. The file tells of
times and hosts, so nothing that is published follows from it.
"""

import errno
import json
import os
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from data.ids import canonical_json

FILE = "crashes.jsonl"
OTHER = "unexpected"
LONGEST_DETAIL = 500
REASONS = {
    "out_of_memory": ("MemoryError", "OutOfMemoryError", "MemoryLimitError"),
    "egl": ("RenderBackendError",),
    "timeout": ("TimeoutError", "Timeout", "TimeoutException"),
    "network": ("ConnectionError", "IncompleteRead", "ChatError"),
    "bad_asset": ("MeshError", "AssetError"),
    "bad_input": ("ShardError", "PairsError"),
    "killed": ("WorkerLostError",),
    "disk_full": ("DiskFullError",),
}
"""Reason -> names of error types: what defines them may be heavy to import, or not installed."""
ERRNOS = {
    errno.ENOMEM: "out_of_memory",
    errno.ENOSPC: "disk_full",
    errno.EDQUOT: "disk_full",
    errno.ETIMEDOUT: "timeout",
}


def crash_reason(error: BaseException | None) -> str:
    """One of REASONS, or OTHER: of the error, else of the first that it follows from."""
    while error is not None:
        names = {kind.__name__ for kind in type(error).__mro__}
        for reason, types in REASONS.items():
            if names.intersection(types):
                return reason
        if isinstance(error, OSError) and error.errno in ERRNOS:
            return ERRNOS[error.errno]
        error = error.__cause__
    return OTHER


def note_crash(work_dir: Path, shard: int | None, error: BaseException, retried: bool) -> None:
    """Add a line; from several processes at once, which append whole lines. A full disk takes none."""
    line = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "shard": shard,
        "reason": crash_reason(error),
        "error": f"{type(error).__name__}: {error}"[:LONGEST_DETAIL],
        "retried": retried,
    }
    with _unless_disk_full():
        descriptor = os.open(work_dir / FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            # The end of a line comes first too: a full disk may have cut off the one before.
            os.write(descriptor, b"\n" + canonical_json(line) + b"\n")
        finally:
            os.close(descriptor)


@contextmanager
def _unless_disk_full() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if ERRNOS.get(error.errno or 0) != "disk_full":
            raise


def crashes_in(work_dir: Path) -> dict[str, int]:
    """Crashes by reason; a line that a full disk cut off does not count."""
    path = work_dir / FILE
    found = Counter[str]()
    for line in path.read_bytes().splitlines() if path.exists() else ():
        with suppress(ValueError, KeyError, TypeError):
            found[json.loads(line)["reason"]] += 1
    return dict(found)


def crashes_text(crashes: dict[str, int]) -> str:
    """`2 out_of_memory, 1 killed`, the most frequent first."""
    return ", ".join(f"{count} {reason}" for reason, count in sorted(crashes.items(), key=lambda item: -item[1]))
