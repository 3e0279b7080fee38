from data.shards import ShardWriter
from data.stage import ShardSpec, StageContext
from flows.simulation import records
from flows.simulation.world import work
from tasks.render import finalize, plan

__all__ = ["finalize", "plan", "run_shard"]


def run_shard(ctx: StageContext, spec: ShardSpec, out: ShardWriter) -> None:
    work(ctx)
    objects = sorted({key.rpartition("-s")[0] for key in spec.keys})
    made = {
        record["set_id"]: record
        for sample in ctx.read("assets", objects)
        for number in range(ctx.recipe.render.max_sets)
        for record in (records.render(sample.record, number, ctx.recipe),)
    }
    for key in spec.keys:
        out.add(key, made[key])
