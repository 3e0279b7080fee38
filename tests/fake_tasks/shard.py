from pathlib import Path
from typing import Any

from data.shards import ShardIndex, ShardWriter
from data.stage import ShardSpec, StageContext, chunk
from fake_tasks import make_samples


def plan(ctx: StageContext) -> list[ShardSpec]:
    return chunk(ctx.index("assets").keys, ctx.recipe.shard.shard_size)


def run_shard(ctx: StageContext, spec: ShardSpec, out: ShardWriter) -> None:
    make_samples(ctx, spec, out, {sample.key: sample.record for sample in ctx.read("assets", spec.keys)})


def finalize(ctx: StageContext, index: ShardIndex, out_dir: Path) -> dict[str, Any]:
    return {}
