"""Runs a function in two forked processes that are one gloo group, as a training's workers are."""

import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState


def in_two_processes(function: Callable[[int], None], folder: Path, seconds: float = 120) -> None:
    """Call `function(rank)` in both; AssertionError with the tracebacks if one fails. No imports are done again."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    context = get_context("fork")
    processes = [context.Process(target=_work, args=(function, rank, port, folder)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(seconds)
    for process in processes:
        process.kill()
        process.join()
    failures = [path.read_text() for path in sorted(folder.glob("failed-*"))]
    assert not failures, "\n".join(failures)
    assert [process.exitcode for process in processes] == [0, 0]


def _work(function: Callable[[int], None], rank: int, port: int, folder: Path) -> None:
    os.environ.update(
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE="2",
        LOCAL_WORLD_SIZE="2",
        GLOO_SOCKET_IFNAME="lo",
        OMP_NUM_THREADS="1",
    )
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    try:
        function(rank)
        PartialState().wait_for_everyone()
    except BaseException:
        (folder / f"failed-{rank}").write_text(traceback.format_exc())
        os._exit(1)
    os._exit(0)
