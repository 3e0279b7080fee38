"""One maker at a time: of a shard (the driver's workers, `syncd run-shard`, workers that a killed driver left), and of
inputs that several tasks on one machine want from the store."""

import errno
import fcntl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def held(path: Path, busy: str) -> Iterator[None]:
    """Hold the lock file `path`, after saying `busy` and waiting for whoever has it. It ends with the process.

    On a file system without locks there is none.
    """
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(busy, file=sys.stderr, flush=True)
            fcntl.flock(stream, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
        yield


@contextmanager
def sole_maker(work_dir: Path, stage: str, index: int) -> Iterator[None]:
    """Hold the lock of a shard.

    Look for the receipt inside: the one before may have written it. Without locks two makers of one shard lose time,
    but nothing else: they write equal bytes under names of their own.
    """
    path = work_dir / f".{index:06d}.lock"
    with held(path, f"{stage}: shard {index}: another process makes it; waiting for that"):
        yield
        path.unlink(missing_ok=True)  # the receipt is there, so whoever comes to a lock of its own finds it


@contextmanager
def sole_bringer(artifacts: Path, stage: str) -> Iterator[None]:
    """Hold the lock of an input that is brought from the store. Look inside whether it is there by now."""
    path = artifacts / ".origin" / f"{stage}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with held(path, f"{stage}: another process brings it from the store; waiting for that"):
        yield
