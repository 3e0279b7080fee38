"""A checkpoint without weights: its header says what the real one's does, and how good the model is, which is ten times
the learning rate."""

import json
from pathlib import Path
from typing import Any

from data.ids import digest_of
from data.shards import ShardIndex, ShardWriter, read_all, sha256_file
from data.stage import ShardSpec, StageContext
from fake_tasks import make_samples
from models.header import FILE_NAME
from models.training.record import CheckpointRecord


def plan(ctx: StageContext) -> list[ShardSpec]:
    return [ShardSpec(0, ("customizer",))]


def run_shard(ctx: StageContext, spec: ShardSpec, out: ShardWriter) -> None:
    section = ctx.recipe.train
    record = CheckpointRecord(
        base_model=ctx.recipe.models.customizer,
        dataset_sha256=sha256_file(ctx.output_dir("shard") / "index.json"),
        recipe_sha256=digest_of(section.model_dump(mode="json")),
        signature=ctx.signature,
        references="separate",
        lora_rank=section.lora_rank,
        lora_targets=section.lora_targets,
        height=64,
        width=64,
        step=section.steps,
    )
    header = {"__metadata__": {**record.header(), "quality": str(10 * section.learning_rate)}}
    text = json.dumps(header, sort_keys=True).encode()
    make_samples(ctx, spec, out, {"customizer": record.model_dump(mode="json")}, len(text).to_bytes(8, "little") + text)


def finalize(ctx: StageContext, index: ShardIndex, out_dir: Path) -> dict[str, Any]:
    (sample,) = read_all(out_dir, index)
    (out_dir / FILE_NAME).write_bytes(sample.files["bin"])
    return {}
