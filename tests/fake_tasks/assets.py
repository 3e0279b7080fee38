from pathlib import Path
from typing import Any

from data.ids import seed_for
from data.shards import ShardIndex, ShardWriter
from data.stage import ShardSpec, StageContext, chunk
from fake_tasks import make_samples


def plan(ctx: StageContext) -> list[ShardSpec]:
    section = ctx.recipe.assets
    return chunk([f"object-{number:03d}" for number in range(section.count)], section.shard_size)


def run_shard(ctx: StageContext, spec: ShardSpec, out: ShardWriter) -> None:
    records = {key: {"object_id": key, "value": seed_for(ctx.recipe.seed, "assets", key)} for key in spec.keys}
    make_samples(ctx, spec, out, records)


def finalize(ctx: StageContext, index: ShardIndex, out_dir: Path) -> dict[str, Any]:
    (out_dir / "notes.txt").write_text(f"{len(index.keys)} objects\n")
    return {"objects": len(index.keys)}
