"""Train: the customization model on the published shards, as one LoRA with its loss curve and ledger.

Work folder: `checkpoints/` (in the runtime's store too), `live/` (DVCLive, to watch a run). Beside it
`features/ORIGIN/`, for all trainings that encode the same (models/training/folders.py): latents and text embeddings per
shard, and of text-image pairs per tar in `pairs/`. Output:
`pytorch_lora_weights.safetensors`, `MODEL_CARD.md`, `metrics.jsonl` (one row per step), `ledger.jsonl` (the shards,
samples and pairs that every step consumed), `dvclive/`, with text-image pairs `pairs.json` (their tars by digest,
and how many samples of each were skipped and why), and `skipped.json` if images of the dataset were skipped, each with
the reason.
"""

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from data.ids import canonical_json, digest_of
from data.release.model_card import Training, dataset_card, licence_of, model_card
from data.shards import ShardIndex, ShardWriter, read_all
from data.stage import ShardSpec, StageContext
from data.store import Store
from models.training.record import CheckpointRecord
from models.training.settings import Settings

KEY = "customizer"
FILES = {
    "safetensors": "pytorch_lora_weights.safetensors",
    "metrics.jsonl": "metrics.jsonl",
    "ledger.jsonl": "ledger.jsonl",
    "pairs.json": "pairs.json",
    "skipped.json": "skipped.json",
}
"""Members of the shard and the files that they are published as; `pairs.json` only with text-image pairs,
`skipped.json` only if images of the dataset were skipped."""


def plan(ctx: StageContext) -> list[ShardSpec]:
    """One run, one checkpoint. ValueError if the dataset is empty, ShardError if it lacks its card, which says under
    which terms it may be trained on; PairsError if the recipe's pairs are no tars.
    """
    if ctx.recipe.train.pairs is not None:
        from data.pairs import pair_tars

        pair_tars(ctx.workspace / ctx.recipe.train.pairs)
    keys = ctx.index("shard").keys
    gone = sorted(key for key in keys if ctx.revoked.holds("shard", key))
    if gone:
        raise ValueError(
            f"artifacts/shard holds {len(gone)} sets of revoked objects ({', '.join(gone[:5])}), which may not be "
            "trained on (configs/revoked.yaml says why); make the dataset without them: syncd run --until shard"
        )
    if not keys:
        raise ValueError("artifacts/shard holds no set to train on; lower select.min_quality or select.min_identity")
    dataset_card(ctx.output_dir("shard"), ctx.index("shard"))
    return [ShardSpec(0, (KEY,))]


def run_shard(ctx: StageContext, spec: ShardSpec, out: ShardWriter) -> None:
    """Train to the end, from the last checkpoint of this signature if there is one."""
    # Here, so that a process that only plans or publishes does not hold half a gigabyte of code.
    from models.training.checkpoints import bring_checkpoint
    from models.training.job import TrainingJob, image_size, open_run
    from models.training.live import TrainingLog
    from models.training.processes import run_processes
    from models.training.trackers import check_trackers
    from models.training.trainer import train

    section = ctx.recipe.train
    job = TrainingJob(
        section=section,
        seed=ctx.recipe.seed,
        base=ctx.recipe.models.customizer,
        workspace=ctx.workspace,
        dataset=ctx.output_dir("shard"),
        folder=ctx.work_dir,
        settings=Settings.of(ctx.options),
        store=ctx.work_url,
    )
    check_trackers(job.settings.trackers)
    if job.store is not None:
        bring_checkpoint(job.checkpoints, Store(job.store))
    device = ctx.device
    if section.processes > 1:
        run_processes(job, device)
        device = "cpu"  # What is left is to read the last checkpoint, and a shared-out base fits on no GPU alone.
    run = open_run(job, device)
    live = TrainingLog(job.live, section.log_every, section.steps)
    history = train(run, live)
    live.close()
    pairs_sha256 = None if run.pairs is None else run.pairs.store.sha256
    record = checkpoint_record(ctx, run.reader.digest, pairs_sha256, image_size(run.reader))
    files = {
        "safetensors": run.customizer.adapter_file(record.header()),
        "metrics.jsonl": _lines(history.metrics),
        "ledger.jsonl": _lines(history.ledger),
    }
    if run.pairs is not None:
        files["pairs.json"] = canonical_json({"tars": [asdict(tar) for tar in run.pairs.store.tars]})
    if run.features.skipped:
        images = [failure.model_dump() for failure in run.features.skipped.values()]
        files["skipped.json"] = canonical_json({"images": images})
    out.add(KEY, record, files)


def checkpoint_record(
    ctx: StageContext, dataset_sha256: str, pairs_sha256: str | None, size: tuple[int, int]
) -> CheckpointRecord:
    """`size`: height and width of the images, in pixels."""
    section, base = ctx.recipe.train, ctx.recipe.models.customizer
    height, width = size
    recipe = {
        "seed": ctx.recipe.seed,
        "models.customizer": base.model_dump(mode="json"),
        "train": section.model_dump(mode="json", exclude={"max_failed_fraction", "pairs"}),
    }
    return CheckpointRecord(
        base_model=base,
        dataset_sha256=dataset_sha256,
        pairs_sha256=pairs_sha256,
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


def _lines(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(canonical_json(row) + b"\n" for row in rows)


def finalize(ctx: StageContext, index: ShardIndex, out_dir: Path) -> dict[str, Any]:
    """Publishes the files of the checkpoint, its card and its DVCLive log.

    Returns the mean loss at both ends, counts, and the licence that follows from base model and dataset.
    """
    from models.training.live import write_log

    (sample,) = read_all(out_dir, index)
    for member, data in sample.files.items():
        (out_dir / FILES[member]).write_bytes(data)
    metrics, ledger = (_rows(sample.files[name]) for name in ("metrics.jsonl", "ledger.jsonl"))
    section = ctx.recipe.train
    write_log(metrics, out_dir / "dvclive", section.log_every, section.steps)
    losses = [row["loss"] for row in metrics]
    end = max(1, len(losses) // 10)
    examples = [example for row in ledger for example in row["samples"]]
    of_pairs = _pairs_summary(json.loads(sample.files["pairs.json"]), examples) if section.pairs else {}
    skipped = json.loads(sample.files.get("skipped.json", b'{"images": []}'))["images"]
    reasons = Counter(failure["reason"] for failure in skipped)
    summary = {
        "steps": len(losses),
        "loss_first_tenth": round(float(np.mean(losses[:end])), 6),
        "loss_last_tenth": round(float(np.mean(losses[-end:])), 6),
        "samples_seen": len(examples),
        "sets_seen": len({example["set"] for example in examples if "set" in example}),
        "shards_seen": len({digest for row in ledger for digest in row["shards"]}),
        "dataset_sha256": sample.record["dataset_sha256"],
        "base_model": f"{ctx.recipe.models.customizer.name}@{ctx.recipe.models.customizer.revision}",
        **of_pairs,
        **({"images_skipped": dict(sorted(reasons.items()))} if skipped else {}),
    }
    record = CheckpointRecord.model_validate(sample.record)
    training = Training(
        section=section,
        seed=ctx.recipe.seed,
        base=record.base_model,
        dataset=dataset_card(ctx.output_dir("shard"), ctx.index("shard")),
        dataset_sha256=record.dataset_sha256,
        recipe_sha256=record.recipe_sha256,
        height=record.height,
        width=record.width,
        summary=summary,
    )
    (out_dir / "MODEL_CARD.md").write_text(model_card(training), encoding="utf-8")
    return summary | {"licence": licence_of(training).expression}


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
