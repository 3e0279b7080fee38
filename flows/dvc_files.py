"""What a DVC that was killed leaves half written, put right before the next one starts."""

import fcntl
import json
from pathlib import Path

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


def keep(workspace: Path) -> None:
    """To be called after a stage: DVC has written LOCK_FILE to its end."""
    lock = workspace / LOCK_FILE
    if lock.exists():
        write_atomic(workspace / KEPT, lock.read_bytes())


def mend(workspace: Path) -> None:
    """Delete WHO, or take LOCK_FILE from its copy, if a DVC that was killed wrote half of it; the caller holds the
    workspace's lock.

    DVC writes both in place, and every later command of it ends at half a file. What is lost says which stages are up
    to date: they run again, and finished shards spare the work.
    """
    who, lock, kept = (workspace / name for name in (WHO, LOCK_FILE, KEPT))
    if who.exists() and not _is_json(who) and _nobody_writes(workspace, WHO):
        who.unlink()
        warn(f"{who}: half written by a DVC that was killed; deleted")
    text = lock.read_bytes() if lock.exists() else None
    if text is None or (kept.exists() and text == kept.read_bytes()):
        return
    if not is_whole(text.decode(errors="replace")) and _nobody_writes(workspace, LOCK_FILE):
        if kept.exists():
            write_atomic(lock, kept.read_bytes())
        else:
            lock.unlink()
        warn(f"{lock}: half written by a DVC that was killed; {'as before that' if kept.exists() else 'deleted'}")


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return False
    return True


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
