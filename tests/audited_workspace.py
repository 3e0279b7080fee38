"""A small run of the miniature as far as a checkpoint: real stages, dropped images, text-image pairs."""

import io
import tarfile
from pathlib import Path

import numpy as np

from configs.schema import Runtime
from data.images import encode_png
from flows.engine import run_stage
from flows.runners import serial
from flows.workspace import choose_recipe, prepare_workspace

RUNTIME = Runtime(runner="thread", workers=1, threads_per_worker=1, device="cpu", min_free_disk_gb=0)
STAGES = ("assets", "prompts", "render", "generate", "score", "select", "shard", "train")
SMALL = (
    *("assets.count=6", "assets.eval_share=0.2", "assets.shard_size=4"),
    *("render.max_sets=2", "render.candidate_views=12"),
    *("generate.steps=3", "generate.shard_size=5", "generate.batch_sets=2"),
    *("select.min_quality=5.0", "select.min_identity=0.3", "shard.shard_size=3"),
    *("train.steps=3", "train.batch=2", "train.accumulate=2", "train.lora_rank=2", "train.checkpoint_every=3"),
    *("train.reference_crops=2", "train.pairs_share=0.2"),
)


def write_pairs(path: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    with tarfile.open(path, "w") as tar:
        for number in range(count):
            picture = encode_png(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
            for name, data in ((f"{number:04d}.png", picture), (f"{number:04d}.txt", b"a mug on a beach")):
                header = tarfile.TarInfo(name)
                header.size = len(data)
                tar.addfile(header, io.BytesIO(data))


def activate(workspace: Path, *overrides: str) -> None:
    prepare_workspace(workspace, choose_recipe(workspace, "miniature", (*SMALL, *overrides)))


def run(workspace: Path, *stages: str) -> None:
    for stage in stages:
        run_stage(stage, workspace, RUNTIME, serial)
