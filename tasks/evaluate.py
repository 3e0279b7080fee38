"""Evaluate: the checkpoint on objects that it was not trained on, beside its baselines, on the same initial noise.

The recipe names the rows (tasks/evaluation/rows.py); beside them stand images made elsewhere under names of their own.
Identity is measured in every row against all references of the object, so that the rows share one yardstick.
"""

from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from data.ids import canonical_json, object_of, seed_for
from data.images import encode_png
from data.records import Prompt
from data.shards import ShardIndex, ShardWriter, read_all, write_atomic
from data.stage import CheckpointFile, ShardSpec, StageContext, chunk
from models.evaluation.files import as_csv, as_markdown, as_parquet, guidance_csv
from models.evaluation.record import EvaluatedImage, EvaluationRecord, ImageMetrics
from models.evaluation.tables import aggregate, differences
from models.header import read_metadata
from models.training.record import CheckpointRecord
from tasks.evaluation.rows import Row, backbones, models_of, pairs_of, rows_of
from tasks.evaluation.subjects import Subject, held_out

if TYPE_CHECKING:
    from models.guidance import Norms
    from tasks.evaluation.scoring import Shot

HELD_OUT = "held_out"
SUBJECTS = {
    HELD_OUT: "held-out objects",
    "dreambooth": "objects of DreamBooth",
    "customconcept101": "objects of CustomConcept101",
    "dreambench_plus": "objects of DreamBench++",
}
_one_at_a_time = Lock()
"""Threads share the model, and rows switch parts of it off."""


def plan(ctx: StageContext) -> list[ShardSpec]:
    """One key per object, held out or of a benchmark; `evaluate.objects` takes a seeded choice of ids, nested in larger
    ones."""
    section = ctx.recipe.evaluate
    if section.benchmark == HELD_OUT:
        keys = sorted({object_of(set_id) for set_id in ctx.index("render").summary["held_out_sets"]})
    else:
        from tasks.evaluation.benchmark import benchmark_objects

        keys = sorted(benchmark_objects(ctx))
    if section.objects:
        keys = sorted(keys, key=lambda key: seed_for(ctx.recipe.seed, "evaluate", key))[: section.objects]
    return chunk(keys, section.shard_size)


def run_shard(ctx: StageContext, spec: ShardSpec, out: ShardWriter) -> None:
    """Objects of the shard are generated and scored together, in batches that its keys alone determine."""
    # Here, so that a process that only plans or publishes does not hold half a gigabyte of code.
    from tasks.evaluation.asking import with_questions
    from tasks.evaluation.benchmark import benchmark_subjects
    from tasks.evaluation.external import external_images
    from tasks.evaluation.lengths import with_short_prompts
    from tasks.evaluation.making import make_row, restored
    from tasks.evaluation.scoring import Shot, score_images
    from tasks.evaluation.tuning import check_tuning, with_nouns

    section = ctx.recipe.evaluate
    found = held_out(ctx, spec, out) if section.benchmark == HELD_OUT else benchmark_subjects(ctx, spec, out)
    subjects = list(with_nouns(section, with_questions(ctx, found, out), out))
    if not subjects:
        return
    rows = {row.name: row for row in rows_of(section)}
    with _one_at_a_time:
        customizer, checkpoint = restored(ctx)
        check_tuning(section, customizer)
        shots = [
            Shot(subject, place, seed, seed_for(ctx.recipe.seed, f"evaluate/{seed}", f"{subject.id}-{place}"))
            for subject in with_short_prompts(section, customizer, subjects, out)
            for place in range(len(subject.prompts))
            for seed in section.seeds
        ]
        shots, external = external_images(ctx, shots, out)
        if not shots:
            return
        made = {name: make_row(ctx, row, shots) for name, row in rows.items()}
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
            checkpoint=_checkpoint_id(ctx, checkpoint),
        )
        out.add(subject.id, record, files)


def _checkpoint_id(ctx: StageContext, record: CheckpointRecord) -> dict[str, str]:
    found = {"dataset_sha256": record.dataset_sha256, "signature": record.signature}
    return found if ctx.checkpoint is None else found | {"sha256": ctx.checkpoint.sha256}


def _evaluated(
    name: str, row: Row | None, shot: "Shot", metrics: ImageMetrics, norms: "Sequence[Norms]"
) -> EvaluatedImage:
    """`row` is None for images that were made elsewhere."""
    prompt: Prompt = shot.subject.prompts[shot.prompt]
    return EvaluatedImage(
        name=f"{name}.p{shot.prompt}.s{shot.seed}",
        row=name,
        prompt=shot.prompt,
        kind=prompt.kind,
        seed=shot.seed,
        noise_seed=shot.noise_seed if row else None,
        references=_given(row, shot.subject) if row else None,
        guidance_norms=[(round(own.level, 4), round(own.image, 4), round(own.text, 4)) for own in norms],
        **metrics.model_dump(),
    )


def _given(row: Row, subject: Subject) -> int | None:
    """How many references a row knows of."""
    return len(subject.references) if row.source == "tuning" else row.references


def finalize(ctx: StageContext, index: ShardIndex, out_dir: Path) -> dict[str, Any]:
    """Writes metrics.json, table.csv, table.md, images.parquet (every image's scores) and guidance.csv (norms).

    Of a checkpoint alone, which no statement speaks of, also evaluated.json: what was evaluated, and how.
    """
    section, customizer = ctx.recipe.evaluate, ctx.recipe.models.customizer
    records = [EvaluationRecord.model_validate(sample.record) for sample in read_all(out_dir, index)]
    scores = [
        {"object": record.object_id, **image.model_dump(mode="json", exclude={"guidance_norms"})}
        for record in records
        for image in record.images
    ]
    rows, external = rows_of(section), sorted(section.external)
    table = aggregate(scores, [*(row.name for row in rows), *external])
    gaps = differences(scores, pairs_of(rows, external))
    measures, models = backbones(ctx.recipe), models_of(ctx.recipe)
    title = f"Evaluation on {SUBJECTS[section.benchmark]}"
    if customizer.source.startswith("miniature:"):
        title += " (miniature)"
    write_atomic(out_dir / "images.parquet", as_parquet(scores, measures))
    norms = guidance_csv(image for record in records for image in record.images)
    write_atomic(out_dir / "guidance.csv", norms.encode())
    write_atomic(out_dir / "table.csv", as_csv(table, measures, models).encode())
    write_atomic(out_dir / "table.md", as_markdown(table, gaps, measures, models, title).encode())
    whole = {
        "rows": table,
        "order": list(table),
        "differences": gaps,
        "backbones": measures,
        "models": models,
        "subjects": SUBJECTS[section.benchmark],
    }
    write_atomic(out_dir / "metrics.json", canonical_json(whole) + b"\n")
    if ctx.checkpoint is not None:
        write_atomic(out_dir / "evaluated.json", canonical_json(_what_was_evaluated(ctx, ctx.checkpoint)) + b"\n")
    return {
        "objects": len(records),
        "images": len(scores),
        "backbones": measures,
        "identity": {row: kinds["all"]["identity"]["mean"] for row, kinds in table.items() if kinds},
        "text": {row: kinds["all"]["text"]["mean"] for row, kinds in table.items() if kinds},
        "geometric": {row: kinds["all"]["geometric"]["mean"] for row, kinds in table.items() if kinds},
    }


def _what_was_evaluated(ctx: StageContext, checkpoint: CheckpointFile) -> dict[str, Any]:
    record = CheckpointRecord.from_header(read_metadata(checkpoint.path))
    return {
        "checkpoint": {"sha256": checkpoint.sha256, **record.model_dump(mode="json")},
        "recipe": {
            "seed": ctx.recipe.seed,
            "models": {role: ref.model_dump(mode="json") for role, ref in ctx.recipe.models.by_role.items()},
            "evaluate": ctx.recipe.evaluate.model_dump(mode="json"),
        },
        "signature": ctx.signature,
    }
