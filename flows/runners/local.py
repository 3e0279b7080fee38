"""Runners: ways to do many jobs at once, all of one signature. What they produce is the same; receipts prove it.

    runner(function, jobs, runtime) -> iterator of (job, result or exception), in order of completion

`function` is a plain function of an importable module: Prefect pickles it by name, so that a worker process keeps the
models it has loaded from one shard to the next.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor
from itertools import chain, islice
from queue import SimpleQueue
from typing import Any, TypeVar

from configs.schema import Runtime
from flows.worker import Sealed, call_sealed, limit_threads, start_worker

Item = TypeVar("Item")
Done = tuple[Item, Any]
Runner = Callable[[Callable[[Item], Any], Iterable[Item], Runtime], Iterator[Done]]


class WorkerLostError(Exception):
    """A worker process died (killed, or out of memory); its jobs may be given out again."""

    transient = True


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
        yield from _drain(pool, function, jobs, 2 * runtime.workers)


def process(function: Callable[[Item], Any], jobs: Iterable[Item], runtime: Runtime) -> Iterator[Done]:
    """Spawned processes through Prefect's ProcessPoolTaskRunner, renewed after `max_tasks_per_worker` jobs each.

    A single job stays in this process: starting another one costs seconds.
    """
    from prefect.task_runners import ProcessPoolTaskRunner

    remaining = iter(jobs)
    if len(head := list(islice(remaining, 2))) < 2:
        yield from thread(function, head, runtime)
        return
    remaining = chain(head, remaining)
    most = runtime.workers * runtime.max_tasks_per_worker or None
    for first in remaining:
        batch = chain([first], islice(remaining, most - 1 if most else None))
        with ProcessPoolTaskRunner(
            max_workers=runtime.workers, initializer=start_worker, initargs=(runtime.threads_per_worker,)
        ) as pool:
            # A worker that is killed may hold the lock of this queue for ever; without this, Python would wait for it
            # at its exit.
            pool._subprocess_message_queue.cancel_join_thread()
            yield from _drain(pool, function, batch, 2 * runtime.workers)


def _drain(pool: Any, function: Callable[[Item], Any], jobs: Iterable[Item], window: int) -> Iterator[Done]:
    """Keep at most `window` jobs submitted, and yield each as it ends."""
    from prefect import task

    call = task(call_sealed, name=function.__name__, task_run_name=lambda: "shard", persist_result=False)
    ended: SimpleQueue[Any] = SimpleQueue()
    remaining, running = iter(jobs), {}

    def submit() -> None:
        for job in islice(remaining, 1):
            future = pool.submit(call, {"function": function, "sealed": Sealed(job)})
            running[id(future)] = (job, future)
            future.add_done_callback(ended.put)

    for _ in range(window):
        submit()
    while running:
        job, future = running.pop(id(ended.get()))
        yield job, _result(future)
        submit()


def _result(future: Any) -> Any:
    try:
        result = future.result(raise_on_failure=False)
    except BrokenExecutor as error:
        return WorkerLostError(f"a worker process died: {error}")
    return result.value if isinstance(result, Sealed) else result


RUNNERS: dict[str, Runner] = {"thread": thread, "process": process}
