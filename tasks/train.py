"""Train: the customization model on the published shards, as one LoRA with its loss curve and ledger.

Work folder: `features/` (latents and text embeddings per shard), `pairs/` (the same of text-image pairs, per tar),
`checkpoints/`, `live/` (DVCLive, to watch a run). Output: `pytorch_lora_weights.safetensors`, `metrics.jsonl` (one row
per step), `ledger.jsonl` (the shards, samples and pairs that every step consumed), `dvclive/`, and with text-image
pairs `pairs.json` (their tars by digest, and how many samples of each were skipped and why).
"""

import json
import logging
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from data.digests import DigestCache
from data.ids import canonical_json, digest_of
from data.images import decode_png
from data.pairs import PairOrder, pair_tars
from data.reader import ShardReader
from data.shards import ShardIndex, ShardWriter, read_all
from data.stage import ShardSpec, StageContext
from models.customizer import Customizer, load_customizer
from models.training.features import FeatureStore
from models.training.live import TrainingLog, write_log
from models.training.pairs import PairMix, PairStore
from models.training.record import CheckpointRecord
from models.training.trainer import History, Run, train

KEY = "customizer"
FILES = {
    "safetensors": "pytorch_lora_weights.safetensors",
    "metrics.jsonl": "metrics.jsonl",
    "ledger.jsonl": "ledger.jsonl",
    "pairs.json": "pairs.json",
}
"""Members of the shard and the files that they are published as; `pairs.json` only with text-image pairs."""

log = logging.getLogger(__name__)


def plan(ctx: StageContext) -> list[ShardSpec]:
    """One run, one checkpoint. ValueError if the dataset is empty, PairsError if the recipe's pairs are no tars."""
    if ctx.recipe.train.pairs is not None:
        pair_tars(ctx.workspace / ctx.recipe.train.pairs)
    if not ctx.index("shard").keys:
        raise ValueError("artifacts/shard holds no set to train on; lower select.min_quality or select.min_identity")
    return [ShardSpec(0, (KEY,))]


def run_shard(ctx: StageContext, spec: ShardSpec, out: ShardWriter) -> None:
    """Train to the end, from the last checkpoint of this signature if there is one."""
    section = ctx.recipe.train
    reader = ShardReader(ctx.output_dir("shard"), ctx.recipe.seed, records_only=True)
    customizer = load_customizer(ctx.recipe.models.customizer, ctx.device, section.dtype, section.reference_form)
    features = FeatureStore(ctx.work_dir / "features", reader.index, section, ctx.recipe.seed)
    started = time.monotonic()
    encoded = features.prepare(customizer, reader.directory)
    log.info("train: features of %d shards encoded in %.0f s", encoded, time.monotonic() - started)
    pairs = open_pairs(ctx, customizer, reader)

    live = TrainingLog(ctx.work_dir / "live", section.log_every, section.steps)
    pace = _Pace(section.steps, section.batch * section.accumulate, section.log_every)

    def on_step(row: dict[str, Any]) -> None:
        live(row)
        pace(row)

    run = Run(customizer, reader, features, section, ctx.recipe.seed, ctx.work_dir / "checkpoints", ctx.device, pairs)
    history = train(run, on_step)
    live.close()
    record = checkpoint_record(ctx, reader, pairs)
    files = {
        "safetensors": customizer.adapter_file(record.header()),
        "metrics.jsonl": _lines(history.metrics),
        "ledger.jsonl": _lines(history.ledger),
    }
    if pairs is not None:
        files["pairs.json"] = canonical_json({"tars": [asdict(tar) for tar in pairs.store.tars]})
    out.add(KEY, record, files)


def open_pairs(ctx: StageContext, customizer: Customizer, reader: ShardReader) -> PairMix | None:
    """The text-image pairs of the recipe, encoded at the size of the dataset's images; None if it names none."""
    section = ctx.recipe.train
    if section.pairs is None:
        return None
    digests = DigestCache.of_workspace(ctx.workspace)
    store = PairStore(ctx.work_dir / "pairs", ctx.workspace / section.pairs, digests)
    started = time.monotonic()
    store.prepare(customizer, *image_size(reader))
    log.info("train: %d text-image pairs, ready after %.0f s", len(store), time.monotonic() - started)
    return PairMix(store, PairOrder(len(store), section.pairs_share, ctx.recipe.seed))


def image_size(reader: ShardReader) -> tuple[int, int]:
    """Height and width of the dataset's images, in pixels."""
    first = next(read_all(reader.directory, reader.index))
    return decode_png(first.files[f"{first.record['samples'][0]['index']}.png"]).shape[:2]


def checkpoint_record(ctx: StageContext, reader: ShardReader, pairs: PairMix | None) -> CheckpointRecord:
    section, base = ctx.recipe.train, ctx.recipe.models.customizer
    height, width = image_size(reader)
    recipe = {
        "seed": ctx.recipe.seed,
        "models.customizer": base.model_dump(mode="json"),
        "train": section.model_dump(mode="json", exclude={"max_failed_fraction", "pairs"}),
    }
    return CheckpointRecord(
        base_model=base,
        dataset_sha256=reader.digest,
        pairs_sha256=None if pairs is None else pairs.store.sha256,
        recipe_sha256=digest_of(recipe),
        signature=ctx.signature,
        references=section.references,
        noised=section.noised,
        lora_rank=section.lora_rank,
        lora_targets=section.lora_targets,
        height=height,
        width=width,
        step=section.steps,
    )


class _Pace:
    """Says every `every` steps how training goes; rates are of this process, not of steps done before."""

    def __init__(self, steps: int, samples: int, every: int) -> None:
        self.steps, self.samples, self.every = steps, samples, every
        self.first: tuple[int, float] | None = None

    def __call__(self, row: dict[str, Any]) -> None:
        done, now = row["step"] + 1, time.monotonic()
        if self.first is None or now - self.first[1] < 1e-3:
            self.first = (done, now)
            return
        if done % self.every and done != self.steps:
            return
        rate = (done - self.first[0]) / (now - self.first[1])
        left = (self.steps - done) / rate
        log.info(
            "train: step %d/%d, loss %.4f, %.1f samples/s, %d min %02d s left",
            *(done, self.steps, row["loss"], rate * self.samples, left // 60, left % 60),
        )


def _lines(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(canonical_json(row) + b"\n" for row in rows)


def finalize(ctx: StageContext, index: ShardIndex, out_dir: Path) -> dict[str, Any]:
    """Publishes the files of the checkpoint and its DVCLive log; returns the mean loss at both ends, and counts."""
    (sample,) = read_all(out_dir, index)
    for member, data in sample.files.items():
        (out_dir / FILES[member]).write_bytes(data)
    history = History(*(_rows(sample.files[name]) for name in ("metrics.jsonl", "ledger.jsonl")))
    section = ctx.recipe.train
    write_log(history.metrics, out_dir / "dvclive", section.log_every, section.steps)
    losses = [row["loss"] for row in history.metrics]
    end = max(1, len(losses) // 10)
    examples = [example for row in history.ledger for example in row["samples"]]
    of_pairs = _pairs_summary(json.loads(sample.files["pairs.json"]), examples) if section.pairs else {}
    return {
        "steps": len(losses),
        "loss_first_tenth": round(float(np.mean(losses[:end])), 6),
        "loss_last_tenth": round(float(np.mean(losses[-end:])), 6),
        "samples_seen": len(examples),
        "sets_seen": len({example["set"] for example in examples if "set" in example}),
        "shards_seen": len({digest for row in history.ledger for digest in row["shards"]}),
        "dataset_sha256": sample.record["dataset_sha256"],
        "base_model": f"{ctx.recipe.models.customizer.name}@{ctx.recipe.models.customizer.revision}",
        **of_pairs,
    }


def _pairs_summary(published: dict[str, Any], examples: list[dict[str, Any]]) -> dict[str, Any]:
    """Text-image pairs that there are, that were skipped by reason, and examples that were pairs."""
    skipped = sum((Counter(tar["skipped"]) for tar in published["tars"]), Counter())
    return {
        "pairs": sum(tar["pairs"] for tar in published["tars"]),
        "pairs_skipped": dict(sorted(skipped.items())),
        "pairs_seen": sum("pair" in example for example in examples),
    }


def _rows(lines: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines.splitlines()]
