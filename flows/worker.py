"""Making one shard: retries, disk guard, receipt. Free of prefect and of torch, so that any runner can call it."""

import errno
import gc
import importlib
import os
import shutil
import socket
import sys
import threading
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from multiprocessing import connection, current_process, parent_process
from pathlib import Path
from types import ModuleType
from typing import Any

from configs.errors import ConfigError
from data.revocation import REVOKED
from data.shards import Receipt, ShardError, ShardWriter, load_receipt
from data.stage import ShardSpec, StageContext
from flows import mirror
from flows.crashes import note_crash
from flows.exclusive import sole_maker

RUN_ID_VARIABLE = "SYNCD_RUN_ID"
WORKER_VARIABLE = "SYNCD_WORKER"
"""Environment variable: number of a worker among those of its machine, from 0."""
PLAN_FILE = "plan.json"
"""In the work folder from before the first shard: the size of the work."""
TRANSIENT_TYPES = frozenset(
    {"MemoryError", "OutOfMemoryError", "ConnectionError", "TimeoutError", "Timeout", "IncompleteRead"}
)
LONGEST_PAUSE_SECONDS = 60.0


class StageError(Exception):
    """A stage that cannot finish; the message says which shard or budget, and what to do."""


class TransientStageError(StageError):
    """A stage that ended for a transient reason: it may be worth a later try."""

    transient = True


class DiskFullError(StageError):
    """The disk cannot take the next shard."""


class WorkspaceError(StageError):
    """A workspace that the worker's machine does not have."""


@dataclass(frozen=True)
class Job:
    """One shard to make. Picklable."""

    ctx: StageContext
    spec: ShardSpec
    package: str
    retries: int
    pause_seconds: float
    min_free_bytes: int
    expected_bytes: int
    """Mean size of the finished shards of this stage, 0 while there is none."""


def stage_module(package: str, stage: str) -> ModuleType:
    """The module with the stage's plan, run_shard and finalize."""
    name = f"{package}.{stage}"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ConfigError(f"stage {stage!r} is in dvc.yaml, but {name.replace('.', '/')}.py is missing") from error


def make_shard(job: Job) -> Receipt:
    """Run one shard to its receipt, or return the receipt that is there already, here or in the store."""
    ctx = replace(job.ctx, device=resolve_device(job.ctx.device))
    check_shared(ctx.work_dir)
    with sole_maker(ctx.work_dir, ctx.stage, job.spec.index):
        try:
            done = load_receipt(ctx.work_dir, job.spec.index, ctx.signature)
        except ShardError:
            done = None
        if done is not None and not mirror.still_holds(ctx, done):
            done = None
        if done is None and (elsewhere := mirror.shared(ctx, job.spec)) is not None:
            return elsewhere
        return mirror.share(ctx, done or _make_shard(job, ctx))


def _make_shard(job: Job, ctx: StageContext) -> Receipt:
    """Transient errors are tried again up to `job.retries` times with a growing pause; others are raised at once."""
    module = stage_module(job.package, ctx.stage)
    for attempt in range(job.retries + 1):
        check_disk(ctx.work_dir, job.min_free_bytes, job.expected_bytes)
        try:
            return _attempt(module, ctx, job.spec, attempt + 1)
        except Exception as error:
            retried = attempt < job.retries and is_transient(error) and not is_disk_full(error)
            note_crash(ctx.work_dir, job.spec.index, error, retried)
            if is_disk_full(error):
                raise disk_full(ctx.work_dir, job.expected_bytes) from error
            if not retried:
                raise
            pause = min(job.pause_seconds * 2**attempt, LONGEST_PAUSE_SECONDS)
            message = f"{type(error).__name__}: {error}"
        print(
            f"{ctx.stage}: shard {job.spec.index}: {message}; trying again in {pause:g} s "
            f"({attempt + 1} of {job.retries} retries)",
            file=sys.stderr,
            flush=True,
        )
        _release_memory()
        time.sleep(pause)
    raise AssertionError("unreachable: the last attempt returns or raises")


def check_shared(work_dir: Path) -> None:
    """WorkspaceError unless this machine sees the work folder that the plan was written into."""
    if not (work_dir / PLAN_FILE).exists():
        raise WorkspaceError(
            f"{work_dir}: {socket.gethostname()} does not see it; the workspace must lie on storage that every machine "
            f"has under the same path: mount it there, or use --workspace on storage that is shared"
        )


def _attempt(module: ModuleType, ctx: StageContext, spec: ShardSpec, attempt: int) -> Receipt:
    started = datetime.now(UTC)
    clock = time.monotonic()
    with ShardWriter(ctx.work_dir, ctx.stage, ctx.signature, spec.index) as out:
        left = tuple(key for key in spec.keys if not ctx.revoked.holds(ctx.stage, key))
        if left:
            module.run_shard(ctx, replace(spec, keys=left), out)
        for key in sorted(set(spec.keys).difference(left)):
            out.fail(key, REVOKED)
        check_accounted(ctx.stage, spec, out.keys, [failure.key for failure in out.failed])
        return out.finish(
            {
                "started": started.isoformat(timespec="seconds"),
                "seconds": round(time.monotonic() - clock, 3),
                "host": socket.gethostname(),
                "device": ctx.device,
                "peak_mb": _peak_mb(),
                "attempt": attempt,
                "run_id": os.environ.get(RUN_ID_VARIABLE, ""),
            }
        )


def check_accounted(stage: str, spec: ShardSpec, made: list[str], failed: list[str]) -> None:
    """Every key of a shard is either there or failed, never both, never neither."""
    if sorted(made + failed) != sorted(spec.keys):
        missing = sorted(set(spec.keys) - set(made) - set(failed))
        surplus = sorted((set(made) | set(failed)) - set(spec.keys))
        twice = sorted(set(made) & set(failed))
        raise StageError(
            f"{stage}: shard {spec.index} does not account for its keys: missing {missing[:5]}, not asked for "
            f"{surplus[:5]}, both made and failed {twice[:5]}; run_shard must add or fail every key once"
        )


def is_transient(error: BaseException) -> bool:
    """Whether trying again may help: out of memory, a connection, HTTP 429 or 5xx, or `transient = True` on it."""
    marked = getattr(error, "transient", None)
    if marked is not None:
        return bool(marked)
    status = getattr(getattr(error, "response", None), "status_code", None) or getattr(error, "code", None)
    if isinstance(status, int) and (status == 429 or 500 <= status < 600):
        return True
    if isinstance(error, OSError) and error.errno in (errno.ETIMEDOUT, errno.EAGAIN, errno.EIO, errno.ESTALE):
        return True
    return any(kind.__name__ in TRANSIENT_TYPES for kind in type(error).__mro__)


def may_pass(error: BaseException | None) -> bool:
    """Whether an error, or one that it follows from, is transient."""
    while error is not None:
        if is_transient(error):
            return True
        error = error.__cause__
    return False


def is_disk_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def disk_full(path: Path, needed: int) -> DiskFullError:
    """The error for a write that found no space under `path`."""
    free = shutil.disk_usage(path).free
    need = f"about {_size(needed)} for the next shard" if needed else "more than that for the next shard"
    return DiskFullError(
        f"{path}: no space left on the disk: {_size(free)} free, needed {need}; free some space "
        f"(finished shards are kept) and run the same command again"
    )


def check_disk(path: Path, min_free: int, expected: int) -> None:
    """Raise DiskFullError unless `min_free` bytes stay free after a shard of `expected` bytes."""
    path.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path).free
    if free < min_free + expected:
        raise DiskFullError(
            f"{path}: {_size(free)} free, needed {_size(min_free + expected)} (runtime min_free_disk_gb "
            f"{min_free / 1e9:g} and about {_size(expected)} for the next shard); free some space "
            f"(finished shards are kept) and run the same command again"
        )


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"


def resolve_device(device: str) -> str:
    """`auto` and `cuda` become a definite device; worker processes take the GPUs in turn."""
    if device not in ("auto", "cuda"):
        return device
    gpus = gpu_count()
    if gpus == 0:
        if device == "cuda":
            raise ConfigError("runtime device is cuda, and torch sees no GPU; use device: auto or cpu (syncd doctor)")
        return "cpu"
    return f"cuda:{worker_number() % gpus}"


def worker_number() -> int:
    """Of a worker that was given none: its place among the processes that its parent has spawned."""
    if WORKER_VARIABLE in os.environ:
        return int(os.environ[WORKER_VARIABLE])
    number = current_process().name.rpartition("-")[2]
    return int(number) - 1 if number.isdigit() else 0


@lru_cache(maxsize=1)
def gpu_count() -> int:
    """GPUs that torch can use; torch is imported only where the machine has the driver's device files."""
    if not list(Path("/dev").glob("nvidia[0-9]*")):
        return 0
    import torch

    return torch.cuda.device_count()


def _release_memory() -> None:
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _peak_mb() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def limit_threads(threads: int) -> None:
    """Threads that torch uses in this process, loaded or not. NumPy has one everywhere: its library takes the number
    at its import, which comes before that in a stage's own process and after it in a worker."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(threads)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)


def start_worker(threads: int) -> None:
    """Set up a worker process: its threads, and its end when the parent is killed (else it would wait for ever)."""
    limit_threads(threads)
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_exit_with, args=(parent.sentinel,), daemon=True).start()


def _exit_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


class Sealed:
    """A value that Prefect passes on as it is: it walks through dataclasses and models, and takes what has `keys`
    for a mapping."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


def call_sealed(function: Any, sealed: Sealed) -> Sealed:
    return Sealed(function(sealed.value))
