from functools import lru_cache

import numpy as np

from data.images import encode_png
from data.release.marking import mark_png
from data.shards import ShardWriter
from data.stage import ShardSpec, StageContext
from flows.simulation import records
from flows.simulation.world import work
from tasks.shard import finalize, plan

__all__ = ["finalize", "plan", "run_shard"]


@lru_cache(maxsize=1)
def picture() -> bytes:
    """The smallest that may be published."""
    return mark_png(encode_png(np.zeros((1, 1, 3), np.uint8)))


def run_shard(ctx: StageContext, spec: ShardSpec, out: ShardWriter) -> None:
    work(ctx)
    scores = {sample.key: sample.record for sample in ctx.read("score", spec.keys)}
    decisions = {sample.key: sample.record for sample in ctx.read("select", spec.keys)}
    objects = sorted({record["object_id"] for record in decisions.values()})
    assets = {sample.key: sample.record for sample in ctx.read("assets", objects)}
    thresholds = ctx.index("select").summary["thresholds"]
    for sample in ctx.read("generate", spec.keys):
        asset = assets[sample.record["object_id"]]
        record = records.published(sample.record, scores[sample.key], asset, thresholds)
        out.add(sample.key, record, {f"{image['index']}.png": picture() for image in record["samples"]})
