"""A training that only consumes: the real reader over the published shards, the real draws, ledger and metrics."""

import random
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from data.ids import canonical_json, seed_for
from data.reader import ShardReader
from data.shards import ShardIndex, ShardWriter, read_all
from data.stage import ShardSpec, StageContext
from flows.simulation.world import work

KEY = "customizer"
BUFFER = 1024


def plan(ctx: StageContext) -> list[ShardSpec]:
    return [ShardSpec(0, (KEY,))]


def run_shard(ctx: StageContext, spec: ShardSpec, out: ShardWriter) -> None:
    from models.training.batches import consumed, draw, pick

    work(ctx)
    section = ctx.recipe.train
    reader = ShardReader(ctx.output_dir("shard"), ctx.recipe.seed, buffer=BUFFER, records_only=True)
    samples = chain.from_iterable(repeat(reader))
    metrics, ledger = [], []
    for step in range(section.steps):
        rng = random.Random(seed_for(ctx.recipe.seed, "train", f"examples-{step}"))
        picked = pick(samples, None, step, section.batch * section.accumulate)
        taken = [consumed(source, draw(source, section, rng)) for source in picked]
        shards = list(dict.fromkeys(reader.digest_of(row["set"]) for row in taken))
        ledger.append({"step": step, "shards": shards, "samples": taken})
        metrics.append({"step": step, "loss": 0.5 + 1 / (step + 10), "gradient_norm": 0.1, "step_size": 1e-4})
    files = {"metrics.jsonl": _lines(metrics), "ledger.jsonl": _lines(ledger)}
    sets = {example["set"] for row in ledger for example in row["samples"]}
    out.add(KEY, {"dataset_sha256": reader.digest, "sets_seen": len(sets)}, files)


def _lines(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(canonical_json(row) + b"\n" for row in rows)


def finalize(ctx: StageContext, index: ShardIndex, out_dir: Path) -> dict[str, Any]:
    (sample,) = read_all(out_dir, index)
    for name, data in sample.files.items():
        (out_dir / name).write_bytes(data)
    section, base = ctx.recipe.train, ctx.recipe.models.customizer
    return {
        "steps": section.steps,
        "samples_seen": section.steps * section.batch * section.accumulate,
        "sets_seen": sample.record["sets_seen"],
        "dataset_sha256": sample.record["dataset_sha256"],
        "base_model": f"{base.name}@{base.revision}",
    }
