"""Objects that do not exist; the listing of a source is not part of the simulation."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from data.ids import held_out_of
from data.shards import ShardIndex, ShardWriter
from data.stage import ShardSpec, StageContext, chunk
from flows.simulation import records
from flows.simulation.world import work, world_of


@lru_cache(maxsize=1)
def _held_out(count: int, eval_share: float, seed: int) -> frozenset[str]:
    return held_out_of(map(records.object_id_of, range(count)), eval_share, seed) if eval_share else frozenset()


def held_out(ctx: StageContext) -> frozenset[str]:
    section = ctx.recipe.assets
    return _held_out(section.count, section.eval_share, section.split_seed)


def plan(ctx: StageContext) -> list[ShardSpec]:
    section = ctx.recipe.assets
    return chunk([records.object_id_of(number) for number in range(section.count)], section.shard_size)


def run_shard(ctx: StageContext, spec: ShardSpec, out: ShardWriter) -> None:
    work(ctx)
    failing = world_of(ctx.workspace).failing
    for key in spec.keys:
        if records.number_of(key) % failing == failing - 1:
            out.fail(key, "corrupt", "simulated: the mesh cannot be read")
        else:
            out.add(key, records.asset(key, key in held_out(ctx)))


def finalize(ctx: StageContext, index: ShardIndex, out_dir: Path) -> dict[str, Any]:
    (out_dir / "rejected.jsonl").write_bytes(b"")
    kept = sorted(held_out(ctx).intersection(index.keys))
    return {"objects": len(index.keys), "held_out": len(kept), "held_out_objects": kept, "rejected": {}}
