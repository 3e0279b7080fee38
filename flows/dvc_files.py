"""What a DVC that was killed leaves half written, put right before the next one starts."""

import fcntl
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import yaml

from configs.yaml_text import parse_yaml
from data.shards import write_atomic
from flows.errors import warn

LOCK_FILE = "dvc.lock"
KEPT = ".dvc/tmp/dvc.lock.kept"
"""Copy of LOCK_FILE as the last stage left it."""
WHO = ".dvc/tmp/rwlock"
"""Which processes read and write which outputs, by their ids."""
GUARDS = {LOCK_FILE: ".dvc/tmp/lock", WHO: ".dvc/tmp/rwlock.lock"}
"""Files that DVC locks as long as it writes to these."""
SECONDS_TO_END = 10.0
"""How long a DVC may take that ends because its driver was killed."""


def keep(workspace: Path) -> None:
    """To be called after a stage: DVC has written LOCK_FILE to its end."""
    lock, kept = workspace / LOCK_FILE, workspace / KEPT
    if lock.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(kept, lock.read_bytes())


def mend(workspace: Path) -> None:
    """Delete WHO if it is half written or names nobody who lives, and take LOCK_FILE from its copy if half of it is
    there; the caller holds the workspace's lock.

    DVC writes both in place, and every later command of it ends at half a file, or at an output that is busy: it takes
    a process that nobody has waited for, as in a container without an init, or another one of the same id for a live
    one. What is lost of LOCK_FILE says which stages are up to date: they run again, and finished shards spare the work.
    """
    who, lock, kept = (workspace / name for name in (WHO, LOCK_FILE, KEPT))
    if who.exists() and _names_nobody(who) and _nobody_writes(workspace, WHO):
        who.unlink()
    text = lock.read_bytes() if lock.exists() else None
    if text is None or (kept.exists() and text == kept.read_bytes()):
        return
    if is_whole(text.decode(errors="replace")):
        keep(workspace)
    elif _nobody_writes(workspace, LOCK_FILE):
        if kept.exists():
            write_atomic(lock, kept.read_bytes())
        else:
            lock.unlink()
        warn(f"{lock}: half written by a DVC that was killed; {'as before that' if kept.exists() else 'deleted'}")


def _names_nobody(who: Path) -> bool:
    """Whether none of the processes that are named lives, after SECONDS_TO_END at most."""
    written = who.stat().st_mtime
    try:
        named = set(_pids(json.loads(who.read_bytes())))
    except ValueError:
        return True
    deadline = time.monotonic() + SECONDS_TO_END
    while any(_lives(pid, written) for pid in named):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return bool(named)


def _pids(content: Any) -> Iterator[int]:
    """Of all `{"pid": N, ...}` in it."""
    if isinstance(content, dict):
        if isinstance(content.get("pid"), int):
            yield content["pid"]
        content = list(content.values())
    if isinstance(content, list):
        for value in content:
            yield from _pids(value)


def _lives(pid: int, written: float) -> bool:
    """Whether a process that was there at that time still is."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= written
    except psutil.NoSuchProcess:
        return False


def is_whole(text: str) -> bool:
    """Whether DVC can read a LOCK_FILE. Of half a file it may: then the stages whose lines are missing run again."""
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from voluptuous import Invalid

    try:
        COMPILED_LOCKFILE_SCHEMA(parse_yaml(text))
    except (Invalid, yaml.YAMLError):
        return False
    return True


def _nobody_writes(workspace: Path, name: str) -> bool:
    """False while somebody's own `dvc` command is at it."""
    guard = workspace / GUARDS[name]
    guard.parent.mkdir(parents=True, exist_ok=True)
    with guard.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
