from pathlib import Path
from typing import Any

from data.shards import ShardIndex, ShardWriter
from data.stage import ShardSpec, StageContext, chunk
from fake_tasks import make_samples


def plan(ctx: StageContext) -> list[ShardSpec]:
    return chunk(ctx.planned("assets"), ctx.recipe.prompts.shard_size)


def run_shard(ctx: StageContext, spec: ShardSpec, out: ShardWriter) -> None:
    records = {
        sample.key: {"text": f"a picture of {sample.key}", "value": sample.record["value"] + 1}
        for sample in ctx.read("assets", spec.keys)
    }
    make_samples(ctx, spec, out, records)


def finalize(ctx: StageContext, index: ShardIndex, out_dir: Path) -> dict[str, Any]:
    return {}
