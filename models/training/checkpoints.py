"""Training checkpoints: everything that the next step depends on, in one file that is there whole or not at all.

A file is what torch.save writes and, behind it, the sha256 of that: torch itself reads weights with a flipped bit.
"""

import hashlib
import io
import pickle
import re
from pathlib import Path
from typing import Any

import torch

from data.shards import write_atomic

_NAME = re.compile(r"step-(\d{8})\.pt")
_DIGEST_BYTES = hashlib.sha256().digest_size


class CheckpointError(Exception):
    """A checkpoint that cannot be resumed from; the message names the file and the fix."""


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Write the state after `step` finished steps and delete all but the newest `keep`, at least 1."""
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save({"step": step, **state}, buffer)
    path = folder / f"step-{step:08d}.pt"
    buffer.write(hashlib.sha256(buffer.getbuffer()).digest())
    write_atomic(path, buffer.getvalue())
    for old in checkpoints(folder)[:-keep]:
        old.unlink()
    return path


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoint files, oldest first."""
    return sorted(path for path in folder.glob("step-*.pt") if _NAME.fullmatch(path.name))


def newest_step(folder: Path) -> int:
    """Finished steps of the newest checkpoint, 0 without one."""
    found = checkpoints(folder)
    return int(_NAME.fullmatch(found[-1].name)[1]) if found else 0


def load_checkpoint(folder: Path, device: str) -> dict[str, Any] | None:
    """The newest checkpoint, or None if there is none yet; CheckpointError if it is damaged or holds more than weights
    and plain values."""
    found = checkpoints(folder)
    if not found:
        return None
    try:
        data = found[-1].read_bytes()
        saved, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
        if hashlib.sha256(saved).digest() != digest:
            raise ValueError("the file was changed or truncated")
        return torch.load(io.BytesIO(saved), map_location=device, weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{found[-1]}: cannot be read ({reason}); delete it to resume from the one before"
        ) from error
