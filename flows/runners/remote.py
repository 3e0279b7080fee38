"""Both sides of a cluster's worker: what it must be to make the same bytes as the driver, and how it becomes that.

The workspace must lie on storage that every machine has under the same path; the worker's first look at a shard checks
that (flows.worker). Code and packages must be those of the driver, which its statement names.
"""

import hashlib
import importlib
import importlib.metadata
import os
import platform
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from configs.errors import ConfigError
from configs.schema import Runtime
from data.provenance import KEY_PACKAGES
from flows.errors import DEBUG_VARIABLE, OUR_PACKAGES, warn
from flows.worker import RUN_ID_VARIABLE, Sealed, StageError, limit_threads

CODE = Path(__file__).resolve().parents[2]
CARRIED = (
    *(RUN_ID_VARIABLE, DEBUG_VARIABLE, "SYNCD_MINIATURE_WEIGHTS", "DO_NOT_TRACK", "TRANSFORMERS_VERBOSITY"),
    *("HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_TELEMETRY"),
)
"""Environment variables that a worker takes over from the driver. No keys: what passes a scheduler is not secret."""


class WorkerError(StageError):
    """A worker that is not fit to make shards; the message names it and says what to do."""


@dataclass(frozen=True)
class Setup:
    """What a worker must have before its first job. Picklable."""

    threads: int
    device: str
    local: bool
    """A worker of a cluster that the driver has made for itself."""
    environment: tuple[tuple[str, str], ...]
    build: str


def setup_of(runtime: Runtime) -> Setup:
    carried = tuple((name, os.environ[name]) for name in CARRIED if name in os.environ)
    return Setup(runtime.threads_per_worker, runtime.device, runtime.cluster is None, carried, build())


@lru_cache(maxsize=1)
def build() -> str:
    """Digest of the code that this process has loaded, and of its Python and the packages that make bytes."""
    digest = hashlib.sha256(platform.python_version().encode())
    for package in OUR_PACKAGES:
        for path in sorted((CODE / package).rglob("*.py")):
            digest.update(path.relative_to(CODE).as_posix().encode() + b"\0" + path.read_bytes())
    for name in KEY_PACKAGES:
        digest.update(f"{name}=={importlib.metadata.version(name)}".encode())
    return digest.hexdigest()


@lru_cache(maxsize=1)
def prepare(setup: Setup) -> None:
    """Make this process a worker of that driver; WorkerError if its code or packages are others."""
    where = f"worker {os.getpid()} on {socket.gethostname()}"
    if build() != setup.build:
        raise WorkerError(
            f"{where} has other code, or other versions of {', '.join(KEY_PACKAGES)} than the driver; bring {CODE} "
            f"there up to date (pip install -c constraints.txt -e .) and start the worker again"
        )
    if os.environ.get("OPENBLAS_NUM_THREADS") != "1":
        raise WorkerError(
            f"{where} was started with OPENBLAS_NUM_THREADS={os.environ.get('OPENBLAS_NUM_THREADS', '')!r}; NumPy adds "
            f"in another order with more threads: start it with OPENBLAS_NUM_THREADS=1"
        )
    os.environ.update(setup.environment)
    limit_threads(setup.threads)


def call_prepared(function: Callable[[Any], Any], sealed: Sealed) -> Sealed:
    """`function(job)` in a worker; `sealed` holds its setup and the job."""
    setup, job = sealed.value
    prepare(setup)
    return Sealed(function(job))


def extra(name: str, module: str) -> ModuleType:
    """A module of the extra of that name; ConfigError if it is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"runtime runner is {name}, and {error.name} is not installed; install it with: pip install 'syncd[{name}]'"
        ) from error


def told_of_waiting(runtime: Runtime, workers: Callable[[], int]) -> Callable[[], None]:
    """What says, once whenever it finds that the cluster has no workers, that the run waits for one."""
    told = False

    def look() -> None:
        nonlocal told
        alone = not workers()
        if alone and not told:
            where = runtime.cluster or "the cluster of this machine"
            warn(f"{where} has no workers; waiting for one")
        told = alone

    return look
