"""Subjects of a published benchmark: its references cut to squares, their objects found or masked by hand."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from data.benchmarks.base import BenchmarkObject
from data.benchmarks.readers import read_benchmark
from data.pictures import open_picture, prepare_reference
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
    wanted, side = max(section.references), section.resolution
    for key in spec.keys:
        item = known[key]
        if len(item.references) < wanted:
            detail = f"{len(item.references)} pictures; evaluate.references asks for {wanted}"
            out.fail(key, "too_few_references", detail)
            continue
        phrase = section.phrases.get(key, item.phrase)
        try:
            references = [prepare_reference(path, None, side, side)[0] for path in item.references]
            masks = _masks(ctx, item, references, phrase)
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


def _masks(ctx: StageContext, item: BenchmarkObject, references: list[np.ndarray], phrase: str) -> list[np.ndarray]:
    section = ctx.recipe.evaluate
    if section.reference_masks is None:
        return open_finder(ctx)(references, [phrase] * len(references))
    folder = ctx.workspace / section.reference_masks / item.object_id
    return [_mask(folder / f"{path.stem}.png", path, section.resolution) for path in item.references]


def _mask(path: Path, reference: Path, side: int) -> np.ndarray:
    """bool (side, side): a mask by hand, cut as its reference is; ValueError if it is no mask of that picture."""
    image, original = open_picture(path), open_picture(reference)
    if image.size != original.size:
        raise ValueError(f"{path} is {image.size}, its reference {original.size}; they must be equal")
    left, top, square = middle_square(image.size)
    cut = image.convert("L").crop((left, top, left + square, top + square))
    return np.asarray(cut.resize((side, side), Image.Resampling.NEAREST)) > 0
