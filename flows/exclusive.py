"""One maker of a shard at a time: the driver's workers, `syncd run-shard`, and workers that a killed driver left."""

import errno
import fcntl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def sole_maker(work_dir: Path, stage: str, index: int) -> Iterator[None]:
    """Hold the lock of a shard, after waiting for whoever has it. It ends with the process that holds it.

    Look for the receipt inside: the one before may have written it. On a file system without locks there is none, and
    two makers of one shard lose time, but nothing else: they write equal bytes under names of their own.
    """
    path = work_dir / f".{index:06d}.lock"
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{stage}: shard {index}: another process makes it; waiting for that", file=sys.stderr, flush=True)
            fcntl.flock(stream, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
        yield
        path.unlink(missing_ok=True)  # the receipt is there, so whoever comes to a lock of its own finds it
