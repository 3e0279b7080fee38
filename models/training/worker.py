"""One process of a training that has several.

python -m models.training.worker JOB.json      under models.training.processes or torchrun
"""

import json
import logging
import os
import sys
import threading
import time
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

from data.shards import write_atomic
from models.training.job import TrainingJob, open_run
from models.training.live import TrainingLog
from models.training.processes import PARENT_VARIABLE
from models.training.trainer import train

OURS = ("configs", "data", "models")


def work(job: TrainingJob) -> None:
    """This process's part of the training, to its last checkpoint; the first one keeps the live log."""
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    device = "cpu" if state.device.type == "cpu" else str(state.device)
    run = open_run(job, device)
    if not state.is_main_process:
        train(run)
        return
    live = TrainingLog(job.live, job.section.log_every, job.section.steps)
    train(run, live)
    live.close()


def main(arguments: list[str]) -> int:
    file = Path(arguments[0])
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is not None:
        threading.Thread(target=_end_with, args=(int(parent),), daemon=True).start()
    rank = int(os.environ.get("RANK", "0"))
    if rank == 0:
        logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    try:
        work(TrainingJob.model_validate_json(file.read_bytes()))
    except Exception as error:
        _say(error, rank, file.parent / "processes")
        raise
    PartialState().destroy_process_group()
    return 0


def _say(error: Exception, rank: int, folder: Path) -> None:
    """Leave what went wrong for the process that waits."""
    told = {
        "time": time.time(),
        "rank": rank,
        "kind": type(error).__name__,
        "message": str(error),
        "expected": type(error).__module__.split(".")[0] in OURS,
        "log": str(folder / f"{rank}.log"),
    }
    folder.mkdir(exist_ok=True)
    write_atomic(folder / f"{rank}.json", json.dumps(told).encode())


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
