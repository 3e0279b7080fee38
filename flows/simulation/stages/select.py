from data.shards import ShardWriter
from data.stage import ShardSpec, StageContext
from flows.simulation import records
from flows.simulation.world import work
from tasks.select import finalize, plan

__all__ = ["finalize", "plan", "run_shard"]


def run_shard(ctx: StageContext, spec: ShardSpec, out: ShardWriter) -> None:
    work(ctx)
    for sample in ctx.read("score", spec.keys):
        out.add(sample.key, records.decision(sample.record, ctx.recipe))
