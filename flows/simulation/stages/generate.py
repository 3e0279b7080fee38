from data.shards import ShardWriter
from data.stage import ShardSpec, StageContext
from flows.simulation import records
from flows.simulation.world import work
from tasks.generate import finalize, plan

__all__ = ["finalize", "plan", "run_shard"]


def run_shard(ctx: StageContext, spec: ShardSpec, out: ShardWriter) -> None:
    work(ctx)
    rendered = list(ctx.read("render", spec.keys))
    objects = sorted({sample.record["object_id"] for sample in rendered})
    prompts = {sample.key: sample.record for sample in ctx.read("prompts", objects)}
    settings = records.settings_of(ctx.recipe)
    for sample in rendered:
        written = prompts[sample.record["object_id"]]
        out.add(sample.key, records.generated(sample.record, written, ctx.recipe, settings))
