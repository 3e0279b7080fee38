"""What every runner shares: its signature, and the window of submitted jobs."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from configs.schema import Runtime
from flows.worker import Sealed

Item = TypeVar("Item")
Done = tuple[Item, Any]
IDLE_SECONDS = 30.0
"""After so long without a result a runner looks whether anybody works at all."""
Runner = Callable[[Callable[[Item], Any], Iterable[Item], Runtime], Iterator[Done]]


class WorkerLostError(Exception):
    """A worker process died (killed, or out of memory) while it had this job, which may be given out again."""

    transient = True


def drain(
    submit: Callable[[Item], Any],
    jobs: Iterable[Item],
    window: Callable[[], int],
    lost: tuple[type[Exception], ...],
    idle: Callable[[], None] = lambda: None,
) -> Iterator[Done]:
    """Keep at most `window()` jobs submitted, and yield each as it ends.

    `submit` gives Prefect's future of a job. `lost` are the exceptions that mean the death of a worker. `idle` is
    called whenever IDLE_SECONDS have passed in which no job ended.
    """
    ended: SimpleQueue[Any] = SimpleQueue()
    remaining, running, refused = iter(jobs), {}, deque[Done]()

    def fill() -> None:
        for job in islice(remaining, max(0, window() - len(running))):
            try:
                future = submit(job)
            except lost as error:  # the pool broke after the last result that was seen
                refused.append((job, _lost(error)))
                return
            running[id(future)] = (job, future)
            future.add_done_callback(ended.put)

    fill()
    while running or refused:
        if refused:
            yield refused.popleft()
        else:
            try:
                job, future = running.pop(id(ended.get(timeout=IDLE_SECONDS)))
            except Empty:
                idle()
                continue
            yield job, _result(future, lost)
        fill()


def _result(future: Any, lost: tuple[type[Exception], ...]) -> Any:
    """What the job returned, or the exception that it or the pool raised."""
    try:
        result = future.result(raise_on_failure=False)
    except lost as error:
        return _lost(error)
    except Exception as error:
        return error
    return result.value if isinstance(result, Sealed) else result


def _lost(error: Exception) -> WorkerLostError:
    lost = WorkerLostError(f"a worker process died ({type(error).__name__})")
    lost.__cause__ = error
    return lost
