from data.shards import ShardWriter
from data.stage import ShardSpec, StageContext
from flows.simulation import records
from flows.simulation.world import work
from tasks.shard import finalize, plan

__all__ = ["finalize", "plan", "run_shard"]


def run_shard(ctx: StageContext, spec: ShardSpec, out: ShardWriter) -> None:
    work(ctx)
    scores = {sample.key: sample.record for sample in ctx.read("score", spec.keys)}
    decisions = {sample.key: sample.record for sample in ctx.read("select", spec.keys)}
    objects = sorted({record["object_id"] for record in decisions.values()})
    assets = {sample.key: sample.record for sample in ctx.read("assets", objects)}
    thresholds = ctx.index("select").summary["thresholds"]
    for sample in ctx.read("generate", spec.keys):
        asset = assets[sample.record["object_id"]]
        out.add(sample.key, records.published(sample.record, scores[sample.key], asset, thresholds))
