from pathlib import Path
from typing import Any

import torch

from data.ids import digest_of
from data.shards import ShardIndex, ShardWriter, sha256_file
from data.stage import ShardSpec, StageContext, chunk
from models.header import FILE_NAME
from models.lora import canonical_safetensors
from models.training.record import CheckpointRecord


def plan(ctx: StageContext) -> list[ShardSpec]:
    return chunk(["run"], 1)


def weights(ctx: StageContext) -> bytes:
    record = CheckpointRecord(
        base_model=ctx.recipe.models.customizer,
        dataset_sha256=sha256_file(ctx.output_dir("shard") / "index.json"),
        recipe_sha256=digest_of(ctx.recipe.seed),
        signature=ctx.signature,
        references="separate",
        lora_rank=1,
        lora_targets="attention",
        height=64,
        width=64,
        step=1,
    )
    return canonical_safetensors({"lora": torch.ones(8)}, record.header())


def run_shard(ctx: StageContext, spec: ShardSpec, out: ShardWriter) -> None:
    out.add("run", {"step": 1}, {"safetensors": weights(ctx)})


def finalize(ctx: StageContext, index: ShardIndex, out_dir: Path) -> dict[str, Any]:
    (out_dir / FILE_NAME).write_bytes(weights(ctx))
    return {}
