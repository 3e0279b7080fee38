"""Evaluate: the checkpoint on objects that it was not trained on, beside its baselines, on the same initial noise.

Rows: `base` (no adapter, no references, plain text guidance), `copy` (the first reference as it is: all identity, no
text, what no method should look like), `ours-N` (N references, normalised dual guidance, Eq. 5.4), `plain-N` (the
same checkpoint with plain dual guidance), and images made elsewhere under names of their own. Identity is measured in
every row against all references of the object, so that the rows share one yardstick.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np

from configs.schema import Evaluate, Guidance
from data.ids import canonical_json, seed_for
from data.images import encode_png
from data.records import Prompt
from data.shards import ShardIndex, ShardWriter, read_all, sha256_file, write_atomic
from data.stage import ShardSpec, StageContext, chunk
from models.customizer import Customizer, CustomizeRequest, CustomizeSettings, GuidanceTrace
from models.evaluation.files import as_csv, as_markdown, as_parquet, guidance_csv
from models.evaluation.record import EvaluatedImage, EvaluationRecord, ImageMetrics
from models.evaluation.tables import KINDS, aggregate, differences
from models.guidance import Norms
from models.training.record import CheckpointRecord
from models.training.restore import restore
from tasks.evaluation.asking import with_questions
from tasks.evaluation.benchmark import benchmark_objects, benchmark_subjects
from tasks.evaluation.external import external_images
from tasks.evaluation.scoring import Shot, backbones, score_images
from tasks.evaluation.subjects import held_out, object_of

BASE, COPY = "base", "copy"
_, PROPERTY = KINDS
HELD_OUT = "held_out"
SUBJECTS = {
    HELD_OUT: "held-out objects",
    "dreambooth": "objects of DreamBooth",
    "customconcept101": "objects of CustomConcept101",
    "dreambench_plus": "objects of DreamBench++",
}
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


def pairs_of(references: Sequence[int], external: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Rows worth comparing: ours with base, more references with fewer, normalised with plain guidance; and ours with
    the most references with what was made elsewhere."""
    counts = sorted(set(references))
    pairs = [(f"ours-{count}", BASE) for count in counts]
    pairs += [(f"ours-{more}", f"ours-{fewer}") for fewer, more in pairwise(counts)]
    pairs += [(f"ours-{count}", f"plain-{count}") for count in counts]
    return pairs + [(f"ours-{counts[-1]}", row) for row in external]


def plan(ctx: StageContext) -> list[ShardSpec]:
    """One key per object, held out or of a benchmark; `evaluate.objects` takes a seeded choice of ids, nested in larger
    ones."""
    section = ctx.recipe.evaluate
    if section.benchmark == HELD_OUT:
        keys = sorted({object_of(set_id) for set_id in ctx.index("render").summary["held_out_sets"]})
    else:
        keys = sorted(benchmark_objects(ctx))
    if section.objects:
        keys = sorted(keys, key=lambda key: seed_for(ctx.recipe.seed, "evaluate", key))[: section.objects]
    return chunk(keys, section.shard_size)


def run_shard(ctx: StageContext, spec: ShardSpec, out: ShardWriter) -> None:
    """Objects of the shard are generated and scored together, in batches that its keys alone determine."""
    section = ctx.recipe.evaluate
    found = held_out(ctx, spec, out) if section.benchmark == HELD_OUT else benchmark_subjects(ctx, spec, out)
    shots = [
        Shot(subject, place, seed, seed_for(ctx.recipe.seed, f"evaluate/{seed}", f"{subject.id}-{place}"))
        for subject in with_questions(ctx, found, out)
        for place in range(len(subject.prompts))
        for seed in section.seeds
    ]
    shots, external = external_images(ctx, shots, out)
    if not shots:
        return
    rows = {row.name: row for row in rows_of(section.references)}
    with _one_at_a_time:
        customizer, checkpoint = _restored(ctx)
        made = {name: _generate(ctx, customizer, row, shots) for name, row in rows.items()}
    images = {name: own for name, (own, _) in made.items()} | external
    scores = score_images(ctx, shots, images)
    for subject in dict.fromkeys(shot.subject for shot in shots):
        files = {f"ref.{place}.png": encode_png(image) for place, image in enumerate(subject.references)}
        evaluated = []
        for name in images:
            for place, shot in enumerate(shots):
                if shot.subject is subject:
                    norms = made[name][1].get(place, []) if name in made else []
                    evaluated.append(_evaluated(name, rows.get(name), shot, scores[name][place], norms))
                    files[f"{evaluated[-1].name}.png"] = encode_png(images[name][place])
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


def _generate(
    ctx: StageContext, customizer: Customizer, row: Row, shots: Sequence[Shot]
) -> tuple[list[np.ndarray], GuidanceTrace]:
    """The images of a row, and the norms of their guidance vectors by place."""
    if row.name == COPY:
        return [shot.subject.references[0] for shot in shots], {}
    section = ctx.recipe.evaluate
    height, width = shots[0].subject.references[0].shape[:2]
    images: dict[int, np.ndarray] = {}
    norms: GuidanceTrace = {}
    by_guidance: dict[Guidance, list[int]] = {}
    for place, shot in enumerate(shots):
        by_guidance.setdefault(guidance_of(section, row, shot.subject.prompts[shot.prompt].kind), []).append(place)
    for guidance, places in by_guidance.items():
        settings = CustomizeSettings(height, width, section.steps, section.guidance_scale, guidance)
        for start in range(0, len(places), section.batch_images):
            part = places[start : start + section.batch_images]
            requests = [_request(row, shots[place]) for place in part]
            seen: GuidanceTrace = {}
            with nullcontext() if row.adapted else customizer.without_adapter():
                images.update(zip(part, customizer.generate_many(requests, settings, seen), strict=True))
            norms.update({part[place]: own for place, own in seen.items()})
    return [images[place] for place in range(len(shots))], norms


def guidance_of(section: Evaluate, row: Row, kind: str) -> Guidance:
    """The recipe's guidance in the row's form; prompts that change a property may have an s_I of their own."""
    changes: dict[str, Any] = {}
    if row.guidance == "plain":
        changes["form"] = "plain"
    if not row.adapted:
        changes |= {"text_scale": section.base_text_scale, "text_scale_rise": 0.0}
    elif kind == PROPERTY and section.property_image_scale is not None:
        changes["image_scale"] = section.property_image_scale
    return section.guidance.model_copy(update=changes)


def _request(row: Row, shot: Shot) -> CustomizeRequest:
    subject = shot.subject
    return CustomizeRequest(
        subject.prompts[shot.prompt].text,
        shot.noise_seed,
        subject.references[: row.references],
        subject.masks[: row.references],
    )


def _evaluated(name: str, row: Row | None, shot: Shot, metrics: ImageMetrics, norms: Sequence[Norms]) -> EvaluatedImage:
    """`row` is None for images that were made elsewhere."""
    prompt: Prompt = shot.subject.prompts[shot.prompt]
    return EvaluatedImage(
        name=f"{name}.p{shot.prompt}.s{shot.seed}",
        row=name,
        prompt=shot.prompt,
        kind=prompt.kind,
        seed=shot.seed,
        noise_seed=shot.noise_seed if row else None,
        references=row.references if row else None,
        guidance_norms=[(round(own.level, 4), round(own.image, 4), round(own.text, 4)) for own in norms],
        **metrics.model_dump(),
    )


def finalize(ctx: StageContext, index: ShardIndex, out_dir: Path) -> dict[str, Any]:
    """Writes metrics.json, table.csv, table.md, images.parquet (every image's scores) and guidance.csv (norms)."""
    section, customizer = ctx.recipe.evaluate, ctx.recipe.models.customizer
    records = [EvaluationRecord.model_validate(sample.record) for sample in read_all(out_dir, index)]
    scores = [
        {"object": record.object_id, **image.model_dump(mode="json", exclude={"guidance_norms"})}
        for record in records
        for image in record.images
    ]
    table = aggregate(scores, [*(row.name for row in rows_of(section.references)), *sorted(section.external)])
    gaps = differences(scores, pairs_of(section.references, sorted(section.external)))
    models = backbones(ctx.recipe)
    title = f"Evaluation on {SUBJECTS[section.benchmark]}"
    if customizer.source.startswith("miniature:"):
        title += " (miniature)"
    write_atomic(out_dir / "images.parquet", as_parquet(scores, models))
    norms = guidance_csv(image for record in records for image in record.images)
    write_atomic(out_dir / "guidance.csv", norms.encode())
    write_atomic(out_dir / "table.csv", as_csv(table, models).encode())
    write_atomic(out_dir / "table.md", as_markdown(table, gaps, models, title).encode())
    whole = {"rows": table, "differences": gaps, "backbones": models, "subjects": SUBJECTS[section.benchmark]}
    write_atomic(out_dir / "metrics.json", canonical_json(whole) + b"\n")
    return {
        "objects": len(records),
        "images": len(scores),
        "backbones": models,
        "identity": {row: kinds["all"]["identity"]["mean"] for row, kinds in table.items() if kinds},
        "text": {row: kinds["all"]["text"]["mean"] for row, kinds in table.items() if kinds},
        "geometric": {row: kinds["all"]["geometric"]["mean"] for row, kinds in table.items() if kinds},
    }
