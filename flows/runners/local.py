"""Runners of this machine: this process, its threads, processes that it spawns."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor
from itertools import chain, islice
from threading import Event
from typing import Any

from configs.schema import Runtime
from flows.runners.common import Done, Item, WorkerLostError, drain
from flows.worker import Sealed, call_sealed, limit_threads, start_worker

LOST = (BrokenExecutor,)


def serial(function: Callable[[Item], Any], jobs: Iterable[Item], runtime: Runtime) -> Iterator[Done]:
    """One job after the other in this process, without Prefect."""
    limit_threads(runtime.threads_per_worker)
    for job in jobs:
        try:
            yield job, function(job)
        except Exception as error:
            yield job, error


def thread(function: Callable[[Item], Any], jobs: Iterable[Item], runtime: Runtime) -> Iterator[Done]:
    """Threads of this process through Prefect's ThreadPoolTaskRunner."""
    from prefect.task_runners import ThreadPoolTaskRunner

    limit_threads(runtime.threads_per_worker)
    with ThreadPoolTaskRunner(max_workers=runtime.workers) as pool:
        yield from drain(_submit(pool, function), jobs, lambda: 2 * runtime.workers, LOST)


def process(function: Callable[[Item], Any], jobs: Iterable[Item], runtime: Runtime) -> Iterator[Done]:
    """Spawned processes through Prefect's ProcessPoolTaskRunner, renewed after `max_tasks_per_worker` jobs each, and
    when one of them dies, which takes the others with it."""
    remaining = iter(jobs)
    most = runtime.workers * runtime.max_tasks_per_worker or None
    for first in remaining:
        yield from _one_pool(function, chain([first], islice(remaining, most - 1 if most else None)), runtime)


def _one_pool(function: Callable[[Item], Any], jobs: Iterable[Item], runtime: Runtime) -> Iterator[Done]:
    """The jobs, or as many of them as were taken before a worker died."""
    from prefect.task_runners import ProcessPoolTaskRunner

    broken = Event()

    def window() -> int:
        return 0 if broken.is_set() else 2 * runtime.workers

    with ProcessPoolTaskRunner(
        max_workers=runtime.workers, initializer=start_worker, initargs=(runtime.threads_per_worker,)
    ) as pool:
        # A worker that is killed may hold the lock of this queue for ever; without this, Python would wait for it
        # at its exit.
        pool._subprocess_message_queue.cancel_join_thread()
        for job, result in drain(_submit(pool, function), jobs, window, LOST):
            if isinstance(result, WorkerLostError):
                broken.set()
            yield job, result


def _submit(pool: Any, function: Callable[[Item], Any]) -> Callable[[Item], Any]:
    from prefect import task

    call = task(call_sealed, name=function.__name__, task_run_name=lambda: "shard", persist_result=False)
    return lambda job: pool.submit(call, {"function": function, "sealed": Sealed(job)})
