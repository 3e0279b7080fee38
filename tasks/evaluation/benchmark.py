"""Subjects of a published benchmark: its references cut to squares, their objects found or masked by hand."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from configs.evaluation import Evaluate
from data.benchmarks.base import BenchmarkObject
from data.benchmarks.readers import read_benchmark
from data.pictures import open_mask, open_picture, open_reference, prepare_reference
from data.records import PromptRecord
from data.shards import ShardWriter
from data.squares import middle_square
from data.stage import ShardSpec, StageContext
from models.evaluation.metrics import objects_found
from tasks.evaluation.scoring import open_finder
from tasks.evaluation.subjects import Subject


def benchmark_objects(ctx: StageContext) -> dict[str, BenchmarkObject]:
    """By id. ConfigError for a folder that is not as published."""
    section = ctx.recipe.evaluate
    folder = ctx.workspace / str(section.benchmark_folder)
    return {item.object_id: item for item in read_benchmark(section.benchmark, folder)}


def benchmark_subjects(ctx: StageContext, spec: ShardSpec, out: ShardWriter) -> Iterator[Subject]:
    """The objects of the shard; those whose references cannot be used are recorded as failed.

    Every reference counts for identity; the model gets the first ones.
    """
    section = ctx.recipe.evaluate
    known = benchmark_objects(ctx)
    wanted = max(section.references)
    for key in spec.keys:
        item = known[key]
        if len(item.references) < wanted:
            detail = f"{len(item.references)} pictures; evaluate.references asks for {wanted}"
            out.fail(key, "too_few_references", detail)
            continue
        phrase = section.phrases.get(key, item.phrase)
        try:
            references, masks = _references(ctx, item, phrase)
        except (ValueError, OSError) as error:
            out.fail(key, "bad_reference", str(error))
            continue
        lost = [path.name for path, found in zip(item.references, objects_found(masks), strict=True) if not found]
        if lost:
            fix = f"name it in evaluate.phrases.{key}, or put masks into evaluate.reference_masks"
            out.fail(key, "reference_not_found", f"no {phrase} in {', '.join(lost)}; {fix}")
            continue
        record = PromptRecord(
            object_id=key,
            split="eval",
            category=item.category,
            caption=item.category,
            writer=section.benchmark,
            prompts=list(item.prompts),
        )
        yield Subject(record, tuple(references), tuple(masks), phrase)


def _references(ctx: StageContext, item: BenchmarkObject, phrase: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Pictures of the object, cut to squares as the recipe says, and its mask in each; empty where it is not found."""
    section, side = ctx.recipe.evaluate, ctx.recipe.evaluate.resolution
    pictures = [open_reference(path) for path in item.references]
    if section.reference_cut == "middle":
        pictures = [middle_square(picture.size).cut(picture, side, side) for picture in pictures]
    wholes = [np.asarray(picture) for picture in pictures]
    if section.reference_masks is None:
        masks = open_finder(ctx)(wholes, [phrase] * len(wholes))
    else:
        folder = ctx.workspace / section.reference_masks / item.object_id
        masks = [_mask(folder / f"{path.stem}.png", path, section) for path in item.references]
    if section.reference_cut == "middle":
        return wholes, masks
    cut = [
        prepare_reference(own, mask if mask.any() else None, side, side)
        for own, mask in zip(wholes, masks, strict=True)
    ]
    nothing = np.zeros((side, side), bool)
    return [image for image, _ in cut], [nothing if mask is None else mask for _, mask in cut]


def _mask(path: Path, reference: Path, section: Evaluate) -> np.ndarray:
    """A mask by hand, bool, cut as its reference is before its object is known; ValueError if it is none of it."""
    image, original = open_mask(path), open_picture(reference)
    if image.size != original.size:
        raise ValueError(f"{path} is {image.size}, its reference {original.size}; they must be equal")
    if section.reference_cut == "object":
        return np.asarray(image) > 0
    left, top, square = middle_square(image.size)
    cut = image.crop((left, top, left + square, top + square))
    return np.asarray(cut.resize((section.resolution, section.resolution), Image.Resampling.NEAREST)) > 0
