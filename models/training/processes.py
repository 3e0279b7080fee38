"""The processes of a training on this machine: started, watched, and ended together.

On several machines with a shared disk: run the stage once, which writes job.json into its work folder and says that
this machine has too few GPUs; start the workers, on every machine with its number N; run the stage again, which
publishes what they trained.

    torchrun --nnodes 2 --node-rank N --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \
        -m models.training.worker artifacts/.work/train/SIGNATURE/job.json
"""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import torch
from torch.distributed import TCPStore

from data.shards import write_atomic
from models.training.checkpoints import newest_step
from models.training.job import TrainingJob
from models.training.trainer import TrainingError

PROJECT = Path(__file__).resolve().parents[2]
PARENT_VARIABLE = "SYNCD_TRAINING_PARENT"
"""Environment variable: the process whose end is the end of a worker."""
LOCALHOST = "127.0.0.1"

log = logging.getLogger(__name__)


def run_processes(job: TrainingJob, device: str) -> None:
    """Train to the last checkpoint with `section.processes` processes, on a GPU each or on the CPU.

    TrainingError with what the first process that failed said; the others are ended.
    """
    section = job.section
    write_atomic(job.folder / "job.json", job.model_dump_json().encode())
    if newest_step(job.checkpoints) >= section.steps:
        return
    on_cpu = device == "cpu"
    if not on_cpu and torch.cuda.device_count() < section.processes:
        raise TrainingError(
            f"train.processes is {section.processes} and this machine has {torch.cuda.device_count()} GPUs; a process "
            "takes one each; for several machines see models/training/processes.py"
        )
    said = job.folder / "processes"
    said.mkdir(exist_ok=True)
    for old in said.iterdir():
        old.unlink()
    with _meeting_point() as port, _workers(section.processes, port, on_cpu, job.folder / "job.json", said) as workers:
        _wait(workers, said)


@contextmanager
def _meeting_point() -> Iterator[int]:
    """Port of a store on this machine alone through which the processes find each other."""
    listener = socket.create_server((LOCALHOST, 0))
    port = listener.getsockname()[1]
    store = TCPStore(
        LOCALHOST, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach(), use_libuv=True
    )
    try:
        yield port
    finally:
        del store


@contextmanager
def _workers(count: int, port: int, on_cpu: bool, job: Path, said: Path) -> Iterator[list[subprocess.Popen[str]]]:
    threads = max(1, torch.get_num_threads() // count)
    common = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "MASTER_ADDR": LOCALHOST,
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "ACCELERATE_USE_CPU": str(on_cpu).lower(),
        PARENT_VARIABLE: str(os.getpid()),
    }
    if on_cpu and Path("/sys/class/net/lo").exists():
        common["GLOO_SOCKET_IFNAME"] = "lo"
    command = [sys.executable, "-m", "models.training.worker", str(job)]
    workers: list[subprocess.Popen[str]] = []
    try:
        for rank in range(count):
            with (said / f"{rank}.log").open("w") as errors:
                workers.append(
                    subprocess.Popen(
                        command,
                        env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
                        stderr=errors,
                        text=True,
                    )
                )
        threading.Thread(target=_relay, args=(workers[0].stdout,), daemon=True).start()
        yield workers
    finally:
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.wait()


def _relay(lines: IO[str]) -> None:
    for line in lines:
        log.info("%s", line.rstrip())


def _wait(workers: list[subprocess.Popen[str]], said: Path) -> None:
    """Until all have ended well; TrainingError as soon as one has not."""
    while True:
        codes = [worker.poll() for worker in workers]
        if any(codes):
            raise failure(codes, said)
        if None not in codes:
            return
        time.sleep(0.1)


def failure(codes: list[int | None], said: Path) -> TrainingError:
    """Why the training ended, from what its processes left in `said` and their exit codes, None for those that run.

    A message for the user comes first, then a process that was killed, then the error that was first: processes fail
    for want of each other. A lack of memory is worth a retry.
    """
    errors = sorted((json.loads(path.read_text()) for path in said.glob("*.json")), key=lambda error: error["time"])
    for error in errors:
        if error["expected"]:
            return TrainingError(error["message"])
    killed = [rank for rank, code in enumerate(codes) if code is not None and code < 0]
    if killed or not errors:
        rank = killed[0] if killed else next(rank for rank, code in enumerate(codes) if code)
        cause = signal.Signals(-codes[rank]).name if killed else f"exit code {codes[rank]}"
        return TrainingError(
            f"process {rank} of the training died: {cause}; see {said / f'{rank}.log'}, and run the same command again "
            "to go on from the last checkpoint"
        )
    first = errors[0]
    told = f"process {first['rank']} of the training: {first['kind']}: {first['message']}; see {first['log']}"
    return TrainingError(told, transient=first["kind"] == "OutOfMemoryError")
