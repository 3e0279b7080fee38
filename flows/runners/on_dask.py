"""Dask: processes of this machine under a scheduler, or a cluster that is there already.

    dask scheduler                                                     # on one machine
    dask worker tcp://HOST:8786 --nworkers 8 --nthreads 1              # on every machine with the workspace
    dask cuda worker tcp://HOST:8786 --nthreads 1                      # or, with GPUs: one worker for each

A worker makes one shard at a time and keeps its models. One that dies loses the shards it was given, which the engine
gives out again; a scheduler of one's own does that itself first (its allowed-failures). A worker that is only cut off
goes on: it holds the lock of its shard (flows.exclusive), so that nobody else makes it meanwhile.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from configs.errors import ConfigError
from configs.schema import Runtime
from flows.runners.common import Done, Item, drain
from flows.runners.remote import Setup, WorkerError, call_prepared, extra, setup_of, told_of_waiting
from flows.worker import WORKER_VARIABLE, Sealed, StageError, gpu_count

if TYPE_CHECKING:
    from distributed import Worker
    from prefect_dask import DaskTaskRunner


def dask(function: Callable[[Item], Any], jobs: Iterable[Item], runtime: Runtime) -> Iterator[Done]:
    """Workers of a Dask cluster through Prefect's DaskTaskRunner.

    ConfigError if the extra is not installed or no scheduler answers; WorkerError, as the result of a job, from a
    worker that is not fit.
    """
    from prefect import task

    with session(runtime) as pool:
        from distributed.scheduler import KilledWorker

        call = task(call_on_dask, name=function.__name__, task_run_name=lambda: "shard", persist_result=False)
        setup = setup_of(runtime)

        def submit(job: Item) -> Any:
            return pool.submit(call, {"function": function, "sealed": Sealed((setup, job))})

        def workers() -> int:
            try:
                return len(pool.client.nthreads())
            except OSError as error:
                raise StageError(
                    f"the Dask scheduler went away ({error}); finished shards are kept: start it and its workers, and "
                    f"run the same command again"
                ) from error

        idle = told_of_waiting(runtime, workers)
        idle()
        yield from drain(submit, jobs, lambda: 2 * max(1, workers()), (KilledWorker,), idle)


@contextmanager
def session(runtime: Runtime) -> Iterator["DaskTaskRunner"]:
    """A connection to the runtime's cluster, or to one of this machine that ends with it."""
    extra("dask", "prefect_dask")
    import dask
    from prefect_dask import DaskTaskRunner

    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what goes wrong is told by the engine
    if runtime.cluster is not None:
        with DaskTaskRunner(address=runtime.cluster) as pool:
            try:
                pool.client.nthreads()
            except OSError as error:
                raise ConfigError(
                    f"cluster is {runtime.cluster}, and no Dask scheduler answers there ({error}); start it with: "
                    "dask scheduler"
                ) from error
            yield pool
        return
    kind = {
        "n_workers": runtime.workers,
        "threads_per_worker": 1,
        "host": "127.0.0.1",
        "security": True,  # a key of this cluster alone: other users of the machine cannot send it work
        "memory_limit": 0,  # a shard may need all that there is
        "dashboard_address": "127.0.0.1:0",
        "scheduler_kwargs": {"dashboard": False},
        "silence_logs": logging.CRITICAL,  # of its workers
    }
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}), DaskTaskRunner(cluster_kwargs=kind) as pool:
        yield pool


def call_on_dask(function: Callable[[Any], Any], sealed: Sealed) -> Sealed:
    """In a worker: see that it is fit, then the job."""
    from distributed import get_worker

    fit(get_worker(), sealed.value[0])
    return call_prepared(function, sealed)


def fit(worker: "Worker", setup: Setup) -> None:
    """Give a worker of the driver's own cluster its number; WorkerError for one of another cluster that would not have
    a GPU, or its process, to itself."""
    if setup.local:
        os.environ[WORKER_VARIABLE] = str(worker.name)
        return
    if worker.state.nthreads != 1:
        raise WorkerError(
            f"Dask worker {worker.address} makes {worker.state.nthreads} shards at a time in one process; start it "
            f"with --nthreads 1, and --nworkers for more of them"
        )
    if setup.device != "cpu" and "CUDA_VISIBLE_DEVICES" not in os.environ and gpu_count() > 1:
        raise WorkerError(
            f"Dask worker {worker.address} sees {gpu_count()} GPUs and does not know which is its own; start one "
            f"worker for each: dask cuda worker --nthreads 1, or CUDA_VISIBLE_DEVICES=N dask worker --nthreads 1"
        )
