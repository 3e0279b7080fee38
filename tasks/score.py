"""Score: quality, identity, context and text scores of every image of every set; nothing is decided here."""

from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from data.images import decode_mask, decode_png
from data.records import GeneratedRecord, ImageScores, ScoreRecord
from data.shards import Sample, ShardIndex, ShardWriter, read_all
from data.stage import ShardSpec, StageContext, chunk
from models import registry
from models.scorers.crops import without_object
from models.scorers.frame import clipped_share, cut_off_share, perceptual_hash, saturation
from models.scorers.pairs import cosine_pairs, mean_of_others, pairs_of_found

ROLES = ("clip", "quality", "identity")
NAMES = tuple(ImageScores.model_fields)
DIGITS = 6
"""Scores are rounded to this many decimals when they are written."""


def plan(ctx: StageContext) -> list[ShardSpec]:
    return chunk(ctx.planned("generate"), ctx.recipe.score.shard_size)


def run_shard(ctx: StageContext, spec: ShardSpec, out: ShardWriter) -> None:
    """All images of the shard are embedded together, in batches that its keys alone determine."""
    sets: list[tuple[GeneratedRecord, slice]] = []
    images: list[np.ndarray] = []
    masks: list[np.ndarray] = []
    for sample in ctx.read("generate", spec.keys):
        record = GeneratedRecord.model_validate(sample.record)
        pictures, objects = _pictures(sample, record)
        if len(pictures) < 2:
            out.fail(sample.key, "single_image", f"{len(pictures)} images; identity needs at least 2")
        else:
            sets.append((record, slice(len(images), len(images) + len(pictures))))
            images += pictures
            masks += objects
    if not sets:
        return
    clip, quality, identity = (registry.load(getattr(ctx.recipe.models, role), ctx.device, "float32") for role in ROLES)
    batch = ctx.recipe.score.batch_images
    seen = clip.embed_images(images, batch=batch)
    told = clip.embed_texts([sample.prompt for record, _ in sets for sample in record.samples], batch=batch)
    text = np.einsum("nd,nd->n", seen, told)
    quality_n = quality.scores(seen)
    found = np.array([mask.any() for mask in masks])
    shown = [[each for each, there in zip(stack, found, strict=True) if there] for stack in (images, masks)]
    crops = cutouts = np.empty((0, 1), np.float32)
    if found.any():
        crops, cutouts = (identity.embed(*shown, background=background, batch=batch) for background in (True, False))
    contexts = identity.embed([without_object(*both) for both in zip(images, masks, strict=True)], None, batch=batch)
    for record, own in sets:
        of_set = slice(found[: own.start].sum(), found[: own.stop].sum())
        pairs, means = pairs_of_found(crops[of_set], found[own])
        context_pairs = cosine_pairs(contexts[own])
        values = {
            "quality": quality_n[own],
            "identity": means,
            "identity_masked": pairs_of_found(cutouts[of_set], found[own])[1],
            "clip_image": mean_of_others(cosine_pairs(seen[own])),
            "clip_text": text[own],
            "background": mean_of_others(context_pairs),
            "saturation": [saturation(image) for image in images[own]],
            "clipped": [clipped_share(image) for image in images[own]],
            "area": [mask.mean() for mask in masks[own]],
            "cut_off": [cut_off_share(mask) for mask in masks[own]],
        }
        hashes = [perceptual_hash(image) for image in images[own]]
        try:
            scores = score_record(record, values, pairs, context_pairs, hashes)
        except ValidationError as error:
            out.fail(record.set_id, "score_out_of_range", str(error))
            continue
        out.add(record.set_id, scores)


def _pictures(sample: Sample, record: GeneratedRecord) -> tuple[list[np.ndarray], list[np.ndarray]]:
    places = [image.index for image in record.samples]
    return (
        [decode_png(sample.files[f"{place}.png"]) for place in places],
        [decode_mask(sample.files[f"{place}.mask.png"]) for place in places],
    )


def score_record(
    record: GeneratedRecord,
    values: Mapping[str, Sequence[float] | np.ndarray],
    pairs_kk: np.ndarray,
    context_pairs_kk: np.ndarray,
    hashes: Sequence[str],
) -> ScoreRecord:
    """The rounded scores of one set; pydantic's ValidationError if one is out of its range or not a number."""
    return ScoreRecord(
        set_id=record.set_id,
        object_id=record.object_id,
        licence=record.licence,
        images=[
            ImageScores(**{name: _rounded(values[name][place]) for name in NAMES})
            for place in range(len(record.samples))
        ],
        identity_pairs=[[_rounded(value) for value in row] for row in pairs_kk],
        background_pairs=[[_rounded(value) for value in row] for row in context_pairs_kk],
        hashes=list(hashes),
    )


def _rounded(value: float) -> float:
    return round(float(value), DIGITS) + 0.0


def finalize(ctx: StageContext, index: ShardIndex, out_dir: Path) -> dict[str, Any]:
    """Mean and standard deviation of every score, and the models that gave them."""
    sets, columns = 0, {name: array("d") for name in NAMES}
    for sample in read_all(out_dir, index):
        sets += 1
        for image in ScoreRecord.model_validate(sample.record).images:
            for name, values in columns.items():
                values.append(getattr(image, name))
    return {
        "sets": sets,
        "images": len(columns["quality"]),
        "mean": {name: round(float(np.mean(values)), 4) if values else None for name, values in columns.items()},
        "std": {name: round(float(np.std(values)), 4) if values else None for name, values in columns.items()},
        "models": {role: f"{ref.name}@{ref.revision}" for role in ROLES for ref in (getattr(ctx.recipe.models, role),)},
    }
