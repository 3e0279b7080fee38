"""Evaluate: the checkpoint on held-out objects beside its baselines, on the same initial noise.

Rows: `base` (no adapter, no references, plain text guidance), `copy` (the first reference as it is: all identity, no
text, what no method should look like), `ours-N` (N references, normalised dual guidance, Eq. 5.4) and `plain-N` (the
same checkpoint with plain dual guidance). Identity is measured in every row against all references of the object, so
that the rows share one yardstick.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np

from data.ids import canonical_json, seed_for
from data.images import decode_mask, decode_png, encode_png
from data.records import Prompt, PromptRecord, RenderRecord
from data.shards import Sample, ShardIndex, ShardWriter, read_all, sha256_file, write_atomic
from data.stage import ShardSpec, StageContext, chunk
from models import registry
from models.customizer import Customizer, CustomizeRequest, CustomizeSettings
from models.evaluation.metrics import ImageMetrics, identity_scores, image_metrics, text_scores
from models.evaluation.record import EvaluatedImage, EvaluationRecord
from models.evaluation.tables import KINDS, aggregate, as_csv, as_markdown, differences
from models.miniature.scenes import SCENES, composite, paint_scene, scene_phrase
from models.training.record import CheckpointRecord
from models.training.restore import restore

GREY = 128
BASE, COPY = "base", "copy"
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


@dataclass(frozen=True)
class HeldOut:
    """A held-out object: references uint8 (H, W, 3) with masks bool (H, W), prompts of both kinds."""

    record: PromptRecord
    references: tuple[np.ndarray, ...]
    masks: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Shot:
    """One image to make in every row."""

    held_out: HeldOut
    prompt: int
    seed: int
    noise_seed: int


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
    keys = sorted({_object_of(set_id) for set_id in ctx.index("render").summary["held_out_sets"]})
    if section.objects:
        keys = sorted(keys, key=lambda key: seed_for(ctx.recipe.seed, "evaluate", key))[: section.objects]
    return chunk(keys, section.shard_size)


def _object_of(set_id: str) -> str:
    return set_id.rsplit("-s", 1)[0]


def run_shard(ctx: StageContext, spec: ShardSpec, out: ShardWriter) -> None:
    """Objects of the shard are generated and scored together, in batches that its keys alone determine."""
    section = ctx.recipe.evaluate
    objects = list(_held_out(ctx, spec, out))
    if not objects:
        return
    shots = [
        Shot(
            held_out, place, seed, seed_for(ctx.recipe.seed, f"evaluate/{seed}", f"{held_out.record.object_id}-{place}")
        )
        for held_out in objects
        for place in range(len(held_out.record.prompts))
        for seed in section.seeds
    ]
    rows = rows_of(section.references)
    with _one_at_a_time:
        customizer, checkpoint = _restored(ctx)
        images = {row.name: _generate(ctx, customizer, row, shots) for row in rows}
    scores = _score(ctx, rows, shots, images)
    for held_out in objects:
        files = {f"ref.{place}.png": encode_png(image) for place, image in enumerate(held_out.references)}
        evaluated = []
        for row in rows:
            for place, shot in enumerate(shots):
                if shot.held_out is held_out:
                    evaluated.append(_evaluated(row, shot, scores[row.name][place]))
                    files[f"{evaluated[-1].name}.png"] = encode_png(images[row.name][place])
        record = EvaluationRecord(
            object_id=held_out.record.object_id,
            category=held_out.record.category,
            caption=held_out.record.caption,
            references=len(held_out.references),
            prompts=held_out.record.prompts,
            images=evaluated,
            checkpoint={"dataset_sha256": checkpoint.dataset_sha256, "signature": checkpoint.signature},
        )
        out.add(held_out.record.object_id, record, files)


def _held_out(ctx: StageContext, spec: ShardSpec, out: ShardWriter) -> Iterator[HeldOut]:
    """The objects of the shard with enough references and prompts; the others are recorded as failed."""
    section = ctx.recipe.evaluate
    wanted = max(section.references)
    keys = set(spec.keys)
    sets: dict[str, list[Sample]] = {}
    for sample in ctx.read("render", [key for key in ctx.index("render").keys if _object_of(key) in keys]):
        sets.setdefault(sample.record["object_id"], []).append(sample)
    prompts = {sample.key: PromptRecord.model_validate(sample.record) for sample in ctx.read("prompts", spec.keys)}
    for key in spec.keys:
        views = [(sample, place) for sample in sets.get(key, []) for place in range(len(_rendered(sample).views))][
            :wanted
        ]
        record = prompts.get(key)
        chosen = [prompt for prompt in record.prompts if prompt.kind in KINDS] if record else []
        without = [prompt.text for prompt in chosen if not prompt.facts]
        if len(views) < wanted:
            out.fail(key, "too_few_views", f"{len(views)} rendered views; evaluate.references asks for {wanted}")
        elif not chosen:
            out.fail(key, "no_prompts", f"the prompts stage has none of kind {' or '.join(KINDS)} for it")
        elif section.text_metric == "clip_facts" and without:
            out.fail(key, "no_facts", f"clip_facts needs facts and {without[0]!r} has none; use clip_score")
        else:
            scenes = _scenes_beside([prompt.text for prompt in chosen])
            pictures = [_reference(ctx, sample, place, scenes) for sample, place in views]
            yield HeldOut(
                record.model_copy(update={"prompts": chosen}),
                tuple(picture for picture, _ in pictures),
                tuple(mask for _, mask in pictures),
            )


def _rendered(sample: Sample) -> RenderRecord:
    return RenderRecord.model_validate(sample.record)


def _scenes_beside(prompts: Sequence[str]) -> list[str]:
    """Scenes that no prompt names: a copied reference must not show what a prompt asks for."""
    return [scene for scene in SCENES if not any(scene_phrase(scene) in prompt for prompt in prompts)] or list(SCENES)


def _reference(ctx: StageContext, sample: Sample, place: int, scenes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """View `place` of a rendered set on a backdrop, one of `scenes` if it is painted: image and object mask."""
    rgba = decode_png(sample.files[f"{place}.rgb.png"])
    mask = decode_mask(sample.files[f"{place}.mask.png"])
    cover = rgba[..., 3] / 255.0 if rgba.shape[2] == 4 else mask.astype(np.float64)
    if ctx.recipe.evaluate.backdrop == "scenes":
        rng = np.random.default_rng(seed_for(ctx.recipe.seed, "evaluate/backdrop", f"{sample.key}-{place}"))
        scene = paint_scene(scenes[rng.integers(len(scenes))], len(rgba), rng)
        return composite(rgba[..., :3], cover, scene), mask
    blend = cover[..., None] * rgba[..., :3] + (1 - cover[..., None]) * GREY
    return np.rint(blend).astype(np.uint8), mask


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
        return [shot.held_out.references[0] for shot in shots]
    section = ctx.recipe.evaluate
    height, width = shots[0].held_out.references[0].shape[:2]
    settings = CustomizeSettings(
        height=height,
        width=width,
        steps=section.steps,
        guidance_scale=section.guidance_scale,
        image_scale=section.image_scale,
        image_scale_rise=section.image_scale_rise,
        text_scale=section.text_scale if row.adapted else section.base_text_scale,
        guidance=row.guidance,
    )
    requests = [
        CustomizeRequest(
            shot.held_out.record.prompts[shot.prompt].text,
            shot.noise_seed,
            shot.held_out.references[: row.references],
            shot.held_out.masks[: row.references],
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


def _score(
    ctx: StageContext, rows: Sequence[Row], shots: Sequence[Shot], images: dict[str, list[np.ndarray]]
) -> dict[str, list[ImageMetrics]]:
    section, models = ctx.recipe.evaluate, ctx.recipe.models
    identity, clip, segmenter = (
        registry.load(ref, ctx.device, "float32") for ref in (models.identity, models.clip, models.segmenter)
    )
    embedded: dict[str, np.ndarray] = {}
    for held_out in dict.fromkeys(shot.held_out.record.object_id for shot in shots):
        own = next(shot.held_out for shot in shots if shot.held_out.record.object_id == held_out)
        embedded[held_out] = identity.embed(own.references, own.masks, background=False, batch=section.batch_images)
    references = [embedded[shot.held_out.record.object_id] for shot in shots]
    prompts = [shot.held_out.record.prompts[shot.prompt] for shot in shots]
    texts, facts = [prompt.text for prompt in prompts], [prompt.facts for prompt in prompts]
    scored = {}
    for row in rows:
        own = images[row.name]
        same, found = identity_scores(identity, segmenter, own, references, section.batch_images)
        agree = text_scores(clip, section.text_metric, own, texts, facts, section.batch_images)
        scored[row.name] = [image_metrics(*each) for each in zip(own, same, agree, found, strict=True)]
    return scored


def _evaluated(row: Row, shot: Shot, metrics: ImageMetrics) -> EvaluatedImage:
    prompt: Prompt = shot.held_out.record.prompts[shot.prompt]
    return EvaluatedImage(
        name=f"{row.name}.p{shot.prompt}.s{shot.seed}",
        row=row.name,
        prompt=shot.prompt,
        kind=prompt.kind,
        seed=shot.seed,
        noise_seed=shot.noise_seed,
        references=row.references,
        **metrics.to_dict(),
    )


def finalize(ctx: StageContext, index: ShardIndex, out_dir: Path) -> dict[str, Any]:
    """Writes metrics.json, table.csv, table.md and images.jsonl (every image's scores)."""
    section, models = ctx.recipe.evaluate, ctx.recipe.models
    records = [EvaluationRecord.model_validate(sample.record) for sample in read_all(out_dir, index)]
    scores = [
        {"object": record.object_id, **image.model_dump(mode="json")} for record in records for image in record.images
    ]
    table = aggregate(scores, [row.name for row in rows_of(section.references)])
    gaps = differences(scores, pairs_of(section.references))
    backbones = {
        "identity": f"{_named(models.identity)}, objects found by {_named(models.segmenter)}",
        "text": f"{section.text_metric} by {_named(models.clip)}",
        "model": f"LoRA on {_named(models.customizer)}",
    }
    title = "Evaluation on held-out objects"
    if models.customizer.source.startswith("miniature:"):
        title += " (miniature)"
    write_atomic(out_dir / "images.jsonl", b"".join(canonical_json(score) + b"\n" for score in scores))
    write_atomic(out_dir / "table.csv", as_csv(table).encode())
    write_atomic(out_dir / "table.md", as_markdown(table, gaps, backbones, title).encode())
    whole = {"rows": table, "differences": gaps, "backbones": backbones}
    write_atomic(out_dir / "metrics.json", canonical_json(whole) + b"\n")
    return {
        "objects": len(records),
        "images": len(scores),
        "backbones": backbones,
        "identity": {row: kinds["all"]["identity"]["mean"] for row, kinds in table.items() if kinds},
        "text": {row: kinds["all"]["text"]["mean"] for row, kinds in table.items() if kinds},
        "geometric": {row: kinds["all"]["geometric"]["mean"] for row, kinds in table.items() if kinds},
    }


def _named(ref: Any) -> str:
    return f"{ref.name}@{ref.revision}"
