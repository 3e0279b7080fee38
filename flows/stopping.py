"""Stopping on SIGTERM, as systemd, Kubernetes, Slurm and a Prefect worker ask for it.

Shards that are being made are abandoned: a shard may take hours and a supervisor waits for seconds, and what is under
a temporary name is invisible. Finished shards, and the checkpoints of a training, are kept; the same command resumes.

The stage that DVC runs, and its workers, are a process group of their own. The driver ends that group when it is told
to stop; and when the driver ends in any other way, killed too, flows/reproduce.py does.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

EXIT_CODE = 128 + signal.SIGTERM
MESSAGE = "stopped by SIGTERM; finished shards are kept, the same command resumes"
GRACE_SECONDS = 10.0
"""For what cannot be interrupted: a shard in a thread, a word to the Prefect server."""
SECONDS_BETWEEN_LOOKS = 0.05


def exit_on_sigterm() -> None:
    """From here on SIGTERM raises SystemExit(EXIT_CODE) in the main thread.

    Prefect has a handler of its own while a flow runs, and calls this one behind it.
    """

    def handle(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(EXIT_CODE)

    signal.signal(signal.SIGTERM, handle)


@contextmanager
def workers_end_on_sigterm() -> Iterator[None]:
    """Inside, SIGTERM ends the worker processes of this one first, which its pool would otherwise wait for; and this
    process after GRACE_SECONDS, whatever it waits for. Does nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)

    def handle(number: int, frame: FrameType | None) -> Any:
        for worker in multiprocessing.active_children():
            worker.terminate()
        threading.Thread(target=_exit_after_grace, daemon=True).start()
        if callable(before):
            return before(number, frame)
        raise SystemExit(EXIT_CODE)

    signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _exit_after_grace() -> None:
    time.sleep(GRACE_SECONDS)
    print(MESSAGE, file=sys.stderr, flush=True)
    os._exit(EXIT_CODE)


def end_group(process: subprocess.Popen[Any]) -> None:
    """SIGTERM to a process that leads its group, and to the group; SIGKILL to what is left of it in the end."""
    _signal_group(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS + 2
    while _signal_group(process.pid, 0) and time.monotonic() < deadline:
        process.poll()
        time.sleep(SECONDS_BETWEEN_LOOKS)
    _signal_group(process.pid, signal.SIGKILL)
    process.wait()


def _signal_group(group: int, number: int) -> bool:
    """Whether there was anyone to send it to."""
    with suppress(ProcessLookupError):
        os.killpg(group, number)
        return True
    return False


def end_group_with_parent() -> None:
    """Kill the process group of this process when its standard input ends: a pipe that the parent holds open.

    At once, since the same command may already be resuming, and two must not work in one place.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: None)  # it ends when its command has
    threading.Thread(target=_kill_own_group_at_eof, daemon=True).start()


def _kill_own_group_at_eof() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.killpg(0, signal.SIGKILL)
