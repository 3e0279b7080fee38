from data.shards import ShardWriter
from data.stage import ShardSpec, StageContext
from flows.simulation import records
from flows.simulation.world import work
from tasks.score import finalize, plan

__all__ = ["finalize", "plan", "run_shard"]


def run_shard(ctx: StageContext, spec: ShardSpec, out: ShardWriter) -> None:
    work(ctx)
    for sample in ctx.read("generate", spec.keys):
        out.add(sample.key, records.scores(sample.record))
