"""Evaluate: the checkpoint on held-out objects beside its baselines, on the same initial noise.

Rows: `base` (no adapter, no references, plain text guidance), `copy` (the first reference as it is: all identity, no
text, what no method should look like), `ours-N` (N references, normalised dual guidance, Eq. 5.4) and `plain-N` (the
same checkpoint with plain dual guidance). Identity is measured in every row against all references of the object, so
that the rows share one yardstick.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np

from data.ids import canonical_json, seed_for
from data.images import encode_png
from data.records import Prompt
from data.shards import ShardIndex, ShardWriter, read_all, sha256_file, write_atomic
from data.stage import ShardSpec, StageContext, chunk
from models.customizer import Customizer, CustomizeRequest, CustomizeSettings
from models.evaluation.files import as_csv, as_markdown, as_parquet
from models.evaluation.record import EvaluatedImage, EvaluationRecord, ImageMetrics
from models.evaluation.tables import aggregate, differences
from models.training.record import CheckpointRecord
from models.training.restore import restore
from tasks.evaluation.asking import with_questions
from tasks.evaluation.scoring import Shot, backbones, score_images
from tasks.evaluation.subjects import held_out, object_of

BASE, COPY = "base", "copy"
SUBJECTS = "held-out objects"
_one_at_a_time = Lock()
"""Threads share the model, and the base row switches its adapter off."""


@dataclass(frozen=True)
class Row:
    """One line of the table: who generates, with how many references, under which guidance."""

    name: str
    references: int
    guidance: Literal["normalised", "plain"]

    @property
    def adapted(self) -> bool:
        return self.name not in (BASE, COPY)


def rows_of(references: Sequence[int]) -> list[Row]:
    rows = [Row(BASE, 0, "plain"), Row(COPY, 1, "plain")]
    rows += [Row(f"ours-{count}", count, "normalised") for count in sorted(set(references))]
    return rows + [Row(f"plain-{count}", count, "plain") for count in sorted(set(references))]


def pairs_of(references: Sequence[int]) -> list[tuple[str, str]]:
    """Rows worth comparing: ours with base, more references with fewer, normalised with plain guidance."""
    counts = sorted(set(references))
    pairs = [(f"ours-{count}", BASE) for count in counts]
    pairs += [(f"ours-{more}", f"ours-{fewer}") for fewer, more in pairwise(counts)]
    return pairs + [(f"ours-{count}", f"plain-{count}") for count in counts]


def plan(ctx: StageContext) -> list[ShardSpec]:
    """One key per held-out object; `evaluate.objects` takes a seeded choice of ids, nested in larger ones."""
    section = ctx.recipe.evaluate
    keys = sorted({object_of(set_id) for set_id in ctx.index("render").summary["held_out_sets"]})
    if section.objects:
        keys = sorted(keys, key=lambda key: seed_for(ctx.recipe.seed, "evaluate", key))[: section.objects]
    return chunk(keys, section.shard_size)


def run_shard(ctx: StageContext, spec: ShardSpec, out: ShardWriter) -> None:
    """Objects of the shard are generated and scored together, in batches that its keys alone determine."""
    section = ctx.recipe.evaluate
    subjects = list(with_questions(ctx, held_out(ctx, spec, out), out))
    if not subjects:
        return
    shots = [
        Shot(subject, place, seed, seed_for(ctx.recipe.seed, f"evaluate/{seed}", f"{subject.id}-{place}"))
        for subject in subjects
        for place in range(len(subject.prompts))
        for seed in section.seeds
    ]
    rows = rows_of(section.references)
    with _one_at_a_time:
        customizer, checkpoint = _restored(ctx)
        images = {row.name: _generate(ctx, customizer, row, shots) for row in rows}
    scores = score_images(ctx, shots, images)
    for subject in subjects:
        files = {f"ref.{place}.png": encode_png(image) for place, image in enumerate(subject.references)}
        evaluated = []
        for row in rows:
            for place, shot in enumerate(shots):
                if shot.subject is subject:
                    evaluated.append(_evaluated(row, shot, scores[row.name][place]))
                    files[f"{evaluated[-1].name}.png"] = encode_png(images[row.name][place])
        record = EvaluationRecord(
            object_id=subject.id,
            category=subject.record.category,
            caption=subject.record.caption,
            references=len(subject.references),
            prompts=subject.prompts,
            images=evaluated,
            checkpoint={"dataset_sha256": checkpoint.dataset_sha256, "signature": checkpoint.signature},
        )
        out.add(subject.id, record, files)


def _restored(ctx: StageContext) -> tuple[Customizer, CheckpointRecord]:
    """The model of the train stage, kept per process; ValueError if its base is not the one of the recipe."""
    ctx.index("train")
    folder = ctx.output_dir("train")
    index_sha256 = sha256_file(folder / "index.json")
    customizer, record = _restored_once(folder, index_sha256, ctx.device, ctx.recipe.evaluate.dtype)
    if record.base_model != ctx.recipe.models.customizer:
        raise ValueError(
            f"{folder}: trained from {record.base_model.name}@{record.base_model.revision}, the recipe names "
            f"{ctx.recipe.models.customizer.name}@{ctx.recipe.models.customizer.revision}: run the train stage again"
        )
    return customizer, record


@lru_cache(maxsize=1)
def _restored_once(folder: Path, _index_sha256: str, device: str, dtype: str) -> tuple[Customizer, CheckpointRecord]:
    return restore(folder, device, dtype)


def _generate(ctx: StageContext, customizer: Customizer, row: Row, shots: Sequence[Shot]) -> list[np.ndarray]:
    if row.name == COPY:
        return [shot.subject.references[0] for shot in shots]
    section = ctx.recipe.evaluate
    height, width = shots[0].subject.references[0].shape[:2]
    settings = CustomizeSettings(
        height=height,
        width=width,
        steps=section.steps,
        guidance_scale=section.guidance_scale,
        image_scale=section.image_scale,
        text_scale=section.text_scale if row.adapted else section.base_text_scale,
        guidance=row.guidance,
    )
    requests = [
        CustomizeRequest(
            shot.subject.prompts[shot.prompt].text,
            shot.noise_seed,
            shot.subject.references[: row.references],
        )
        for shot in shots
    ]
    images: list[np.ndarray] = []
    for start in range(0, len(requests), section.batch_images):
        part = requests[start : start + section.batch_images]
        if row.adapted:
            images += customizer.generate_many(part, settings)
        else:
            with customizer.without_adapter():
                images += customizer.generate_many(part, settings)
    return images


def _evaluated(row: Row, shot: Shot, metrics: ImageMetrics) -> EvaluatedImage:
    prompt: Prompt = shot.subject.prompts[shot.prompt]
    return EvaluatedImage(
        name=f"{row.name}.p{shot.prompt}.s{shot.seed}",
        row=row.name,
        prompt=shot.prompt,
        kind=prompt.kind,
        seed=shot.seed,
        noise_seed=shot.noise_seed,
        references=row.references,
        **metrics.model_dump(),
    )


def finalize(ctx: StageContext, index: ShardIndex, out_dir: Path) -> dict[str, Any]:
    """Writes metrics.json, table.csv, table.md and images.parquet (every image's scores)."""
    section, customizer = ctx.recipe.evaluate, ctx.recipe.models.customizer
    records = [EvaluationRecord.model_validate(sample.record) for sample in read_all(out_dir, index)]
    scores = [
        {"object": record.object_id, **image.model_dump(mode="json")} for record in records for image in record.images
    ]
    table = aggregate(scores, [row.name for row in rows_of(section.references)])
    gaps = differences(scores, pairs_of(section.references))
    models = backbones(ctx.recipe)
    title = f"Evaluation on {SUBJECTS}"
    if customizer.source.startswith("miniature:"):
        title += " (miniature)"
    write_atomic(out_dir / "images.parquet", as_parquet(scores, models))
    write_atomic(out_dir / "table.csv", as_csv(table, models).encode())
    write_atomic(out_dir / "table.md", as_markdown(table, gaps, models, title).encode())
    whole = {"rows": table, "differences": gaps, "backbones": models, "subjects": SUBJECTS}
    write_atomic(out_dir / "metrics.json", canonical_json(whole) + b"\n")
    return {
        "objects": len(records),
        "images": len(scores),
        "backbones": models,
        "identity": {row: kinds["all"]["identity"]["mean"] for row, kinds in table.items() if kinds},
        "text": {row: kinds["all"]["text"]["mean"] for row, kinds in table.items() if kinds},
        "geometric": {row: kinds["all"]["geometric"]["mean"] for row, kinds in table.items() if kinds},
    }
