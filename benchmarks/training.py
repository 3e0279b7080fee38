"""Speed and memory of a training step: with and without gradient checkpointing, of one and of two processes.

    python -m benchmarks.training [--steps 20] [--batch 8] [--processes 1 2] [--device cuda]

The miniature's FLUX and, where its weights are there, its U-Net, on random pictures of their size with one to three
references, as their recipes train them. Every row is a training of its own. Rates are of all steps but the first
four, whose operations are counted.
Memory is the most that a process held: on a CPU resident memory, which includes Python and the loaded model; on a GPU
what torch reserved, of one process. TFLOP/s count what the model computes, not what checkpointing computes again.
"""

import argparse
import json
import logging
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import torch

from benchmarks.common import markdown
from configs.load import load_recipe
from configs.schema import Recipe
from data.images import encode_png
from data.shards import ShardEntry, ShardIndex, ShardWriter
from models.registry import miniature_weights
from models.training.job import TrainingJob, open_run
from models.training.pace import StepFlops
from models.training.processes import run_processes
from models.training.settings import Settings
from models.training.trainer import train

RECIPES = {"flux": "miniature", "unet": "miniature-unet"}
SETS, IMAGES, MIB = 16, 4, 2**20
_SAID = re.compile(r"([\d.]+) samples/s, (\S+) TFLOP/s")


def write_dataset(folder: Path, side: int) -> None:
    """Sets of random pictures in one shard."""
    rng = np.random.default_rng(0)
    mask = encode_png(np.ones((side, side), dtype=bool))
    with ShardWriter(folder, "shard", "0" * 64, 0) as out:
        for number in range(SETS):
            key, files = f"set-{number:02d}", {}
            for place in range(IMAGES):
                files[f"{place}.png"] = encode_png(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
                files[f"{place}.mask.png"] = mask
            samples = [{"index": at, "sample_id": f"{key}-{at}", "prompt": "a mug"} for at in range(IMAGES)]
            out.add(key, {"set_id": key, "object_id": key, "samples": samples}, files)
        receipt = out.finish()
    entry = ShardEntry(name=receipt.name, bytes=receipt.bytes, sha256=receipt.sha256, keys=receipt.keys)
    index = ShardIndex(stage="shard", signature="0" * 64, shards=[entry], failed=[])
    (folder / "index.json").write_text(index.model_dump_json())


@contextmanager
def peak_resident() -> Iterator[list[int]]:
    """Most resident bytes of this process, or of one of its children if it has any, in the first place of the list."""
    own, done, most = psutil.Process(), threading.Event(), [0]

    def watch() -> None:
        while not done.is_set():
            for process in own.children() or [own]:
                try:
                    most[0] = max(most[0], process.memory_info().rss)
                except psutil.NoSuchProcess:
                    continue
            time.sleep(0.005)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield most
    finally:
        done.set()
        watching.join()


def measure(job: TrainingJob, device: str) -> list[float]:
    """Samples/s, TFLOP/s per device, MiB of a process."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("models")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    with peak_resident() as most:
        if job.section.processes > 1:
            run_processes(job, device)
        else:
            train(open_run(job, device))
    on_gpu = device != "cpu" and job.section.processes == 1
    held = torch.cuda.max_memory_reserved() if on_gpu else most[0] if device == "cpu" else float("nan")
    samples, flops = _SAID.search(lines[-1]).groups()
    return [float(samples), float(flops), held / MIB]


def job_of(
    recipe: Recipe, dataset: Path, folder: Path, options: argparse.Namespace, processes: int, checkpointing: bool
) -> TrainingJob:
    change = {"steps": options.steps, "batch": options.batch, "log_every": options.steps, "dtype": options.dtype}
    section = recipe.train.model_copy(update={**change, "processes": processes})
    return TrainingJob(
        workspace=folder,
        section=section,
        seed=0,
        base=recipe.models.customizer,
        dataset=dataset,
        folder=folder,
        settings=Settings(gradient_checkpointing=checkpointing),
    )


def row_of(name: str, processes: int, checkpointing: bool, options: argparse.Namespace) -> list[str]:
    """One training, in a process of its own."""
    recipe = load_recipe(RECIPES[name])
    with tempfile.TemporaryDirectory() as place:
        dataset, folder = Path(place) / "shard", Path(place) / "work"
        dataset.mkdir()
        folder.mkdir()
        write_dataset(dataset, recipe.render.resolution)
        job = job_of(recipe, dataset, folder, options, processes, checkpointing)
        file = folder / "measured.json"
        file.write_text(job.model_dump_json())
        words = ["--one", str(file), "--device", options.device, "--threads", str(options.threads)]
        command = [sys.executable, "-m", "benchmarks.training", *words]
        found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    samples, flops, held = json.loads(found.splitlines()[-1])
    kept = "recomputed" if checkpointing else "kept"
    return [name, str(processes), kept, f"{samples:.1f}", f"{flops:.3g}", f"{held:.0f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="torch threads on a CPU, of all processes together")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        print(json.dumps(measure(TrainingJob.model_validate_json(options.one.read_bytes()), options.device)))
        return
    rows = []
    for name in RECIPES:
        if not (miniature_weights() / name).is_dir():
            print(f"{name}: skipped, the miniature's weights have none; train them with: syncd miniature train\n")
            continue
        for processes in options.processes:
            rows += [row_of(name, processes, checkpointing, options) for checkpointing in (False, True)]
    on_cpu = options.device == "cpu"
    where = f"{options.threads} CPU thread(s)" if on_cpu else torch.cuda.get_device_name(options.device)
    print(f"batch {options.batch}, {options.dtype}, {where}, mean of {options.steps - StepFlops.COUNTED} steps\n")
    print(markdown(["model", "processes", "activations", "samples/s", "TFLOP/s per device", "MiB per process"], rows))


if __name__ == "__main__":
    main()
