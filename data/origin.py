"""Stages whose index is here and whose shards are in a store until somebody reads them.

Where from is noted beside the folder, in `.origin/`, so that the folder holds nothing but what its statement names.
"""

from pathlib import Path

from data.shards import ShardEntry, ShardError, write_atomic
from data.store import Store


def origin_of(directory: Path) -> str | None:
    """URL of the folder that the shards of `directory` come from; None if they have to be here."""
    note = _note(directory)
    return note.read_text(encoding="utf-8") if note.exists() else None


def set_origin(directory: Path, url: str) -> None:
    _note(directory).parent.mkdir(parents=True, exist_ok=True)
    write_atomic(_note(directory), url.encode())


def clear_origin(directory: Path) -> None:
    _note(directory).unlink(missing_ok=True)


def fetch_shard(directory: Path, entry: ShardEntry) -> Path:
    """The shard's tar, fetched from the folder's origin if it is not here; ShardError if there is none."""
    path = directory / entry.name
    if path.exists():
        return path
    url = origin_of(directory)
    if url is None:
        raise ShardError(f"{path}: missing")
    return Store(url).fetch(entry.name, path, entry.bytes, entry.sha256)


def _note(directory: Path) -> Path:
    return directory.parent / ".origin" / directory.name
