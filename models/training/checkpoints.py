"""Training checkpoints: everything that the next step depends on, in one file that is there whole or not at all.

A file is what torch.save writes and, behind it, the sha256 of that: torch itself reads weights with a flipped bit. With
a store in the runtime the newest are kept there too, so that another machine can go on.
"""

import hashlib
import io
import pickle
import re
from pathlib import Path
from typing import Any

import torch

from data.shards import write_atomic
from data.store import Store

_NAME = re.compile(r"step-(\d{8})\.pt")
_DIGEST_BYTES = hashlib.sha256().digest_size


class CheckpointError(Exception):
    """A checkpoint that cannot be resumed from; the message names the file and the fix."""


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int, store: Store | None = None) -> Path:
    """Write the state after `step` finished steps, to the store too, and delete all but the newest `keep`, at least 1.

    StoreError if the store cannot be reached; the file in `folder` is there by then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save({"step": step, **state}, buffer)
    path = folder / f"step-{step:08d}.pt"
    buffer.write(hashlib.sha256(buffer.getbuffer()).digest())
    write_atomic(path, buffer.getvalue())
    for old in checkpoints(folder)[:-keep]:
        old.unlink()
    if store is not None:
        store.create(path.name, buffer.getvalue())
        for name in _stored(store)[:-keep]:
            store.delete(name)
    return path


def bring_checkpoint(folder: Path, store: Store) -> None:
    """Put the store's newest checkpoint into `folder`, if it is newer than those there; CheckpointError if damaged."""
    found = _stored(store)
    if not found or _step(found[-1]) <= newest_step(folder):
        return
    data = store.read(found[-1])
    try:
        _verified(data)
    except ValueError as error:
        raise CheckpointError(
            f"{store.url_of(found[-1])}: cannot be read ({error}); delete it to resume from the one before"
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / found[-1], data)


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoint files, oldest first."""
    return sorted(path for path in folder.glob("step-*.pt") if _NAME.fullmatch(path.name))


def newest_step(folder: Path) -> int:
    """Finished steps of the newest checkpoint, 0 without one."""
    found = checkpoints(folder)
    return _step(found[-1].name) if found else 0


def load_checkpoint(folder: Path, device: str) -> dict[str, Any] | None:
    """The newest checkpoint, or None if there is none yet; CheckpointError if it is damaged or holds more than weights
    and plain values."""
    found = checkpoints(folder)
    if not found:
        return None
    try:
        saved = _verified(found[-1].read_bytes())
        return torch.load(io.BytesIO(saved), map_location=device, weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{found[-1]}: cannot be read ({reason}); delete it to resume from the one before"
        ) from error


def _verified(data: bytes) -> bytes:
    """What torch.save wrote; ValueError if it is not what the digest behind it vouches for."""
    saved, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if hashlib.sha256(saved).digest() != digest:
        raise ValueError("the file was changed or truncated")
    return saved


def _stored(store: Store) -> list[str]:
    """Names of the store's checkpoints, oldest first."""
    return sorted(name for name in store.list() if _NAME.fullmatch(name))


def _step(name: str) -> int:
    return int(_NAME.fullmatch(name)[1])
