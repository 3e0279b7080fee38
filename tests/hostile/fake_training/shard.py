from pathlib import Path
from typing import Any

from data.shards import ShardIndex, ShardWriter
from data.stage import ShardSpec, StageContext, chunk


def plan(ctx: StageContext) -> list[ShardSpec]:
    return chunk(["mug-s0"], 1)


def run_shard(ctx: StageContext, spec: ShardSpec, out: ShardWriter) -> None:
    for key in spec.keys:
        out.add(key, {"set_id": key})


def finalize(ctx: StageContext, index: ShardIndex, out_dir: Path) -> dict[str, Any]:
    return {}
