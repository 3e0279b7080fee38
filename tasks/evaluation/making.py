"""Images of a row: made by the checkpoint's model or without one, for every shot of a shard."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path

import numpy as np

from configs.evaluation import Guidance
from configs.schema import Recipe
from data.shards import sha256_file
from data.stage import StageContext
from models.customizer import Customizer, CustomizeRequest, CustomizeSettings, GuidanceTrace
from models.training.record import CheckpointRecord
from models.training.restore import restore
from tasks.evaluation.rows import Row, form_of, guidance_of
from tasks.evaluation.scoring import Shot
from tasks.evaluation.tuning import tuned_on

Made = tuple[list[np.ndarray], GuidanceTrace]
"""Images uint8 (H, W, 3) in the order of the shots, and the norms of their guidance vectors by place."""


def make_row(ctx: StageContext, row: Row, shots: Sequence[Shot]) -> Made:
    """The images of a row, from its source."""
    return SOURCES[row.source](ctx, row, shots)


def restored(ctx: StageContext) -> tuple[Customizer, CheckpointRecord]:
    """The model of the train stage, or of `ctx.checkpoint`, kept per process.

    ValueError if its base is not the one of the recipe, or if the file is not the one that was planned with.
    """
    if ctx.checkpoint is None:
        ctx.index("train")
        folder = ctx.output_dir("train")
        found = _restored_once(folder, sha256_file(folder / "index.json"), ctx.device, ctx.recipe.evaluate.dtype)
        check_base(ctx.recipe, found[1], folder, "run the train stage again")
        return found
    file, sha256 = ctx.checkpoint.path, ctx.checkpoint.sha256
    return _restored_once(file, sha256, ctx.device, ctx.recipe.evaluate.dtype)


def check_base(recipe: Recipe, record: CheckpointRecord, source: Path, fix: str) -> None:
    """ValueError if a checkpoint was trained from another base model than the recipe's."""
    wanted, found = recipe.models.customizer, record.base_model
    if found != wanted:
        raise ValueError(
            f"{source}: trained from {found.name}@{found.revision}, the recipe names {wanted.name}@{wanted.revision}: "
            f"{fix}"
        )


@lru_cache(maxsize=1)
def _restored_once(source: Path, sha256: str, device: str, dtype: str) -> tuple[Customizer, CheckpointRecord]:
    """`sha256`: of a checkpoint file, or of the index.json of a folder, which vouches for the file in it."""
    if source.is_file() and sha256_file(source) != sha256:
        raise ValueError(f"{source}: changed since the evaluation began; start it again")
    return restore(source, device, dtype)


@contextmanager
def in_row(customizer: Customizer, row: Row) -> Iterator[None]:
    """Inside, the model is that of the row: its form of references, and with or without the trained weights."""
    trained = customizer.references
    customizer.references = form_of(trained, row)
    try:
        with nullcontext() if row.adapter else customizer.without_adapter():
            yield
    finally:
        customizer.references = trained


def _customized(ctx: StageContext, row: Row, shots: Sequence[Shot]) -> Made:
    """By the checkpoint's model, as the row has it."""
    customizer, _ = restored(ctx)
    with in_row(customizer, row):
        return _sampled(ctx, customizer, row, shots, [shot.subject.prompts[shot.prompt].text for shot in shots])


def _tuned(ctx: StageContext, row: Row, shots: Sequence[Shot]) -> Made:
    """By the base model tuned on one object after the other."""
    customizer, _ = restored(ctx)
    images: dict[int, np.ndarray] = {}
    for subject in dict.fromkeys(shot.subject for shot in shots):
        places = [place for place, shot in enumerate(shots) if shot.subject is subject]
        with tuned_on(ctx, customizer, row, subject) as prompts:
            own = [shots[place] for place in places]
            made, _ = _sampled(ctx, customizer, row, own, [prompts[shot.prompt] for shot in own])
        images.update(zip(places, made, strict=True))
    return [images[place] for place in range(len(shots))], {}


def _sampled(
    ctx: StageContext, customizer: Customizer, row: Row, shots: Sequence[Shot], prompts: Sequence[str]
) -> Made:
    """By the model as it is, told `prompts`, in batches that share a guidance."""
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
            seen: GuidanceTrace = {}
            requests = [_request(row, shots[place], prompts[place]) for place in part]
            images.update(zip(part, customizer.generate_many(requests, settings, seen), strict=True))
            norms.update({part[place]: own for place, own in seen.items()})
    return [images[place] for place in range(len(shots))], norms


def _request(row: Row, shot: Shot, prompt: str) -> CustomizeRequest:
    subject = shot.subject
    return CustomizeRequest(
        prompt,
        shot.noise_seed,
        subject.references[: row.references],
        subject.masks[: row.references],
    )


def _first_references(ctx: StageContext, row: Row, shots: Sequence[Shot]) -> Made:
    return [shot.subject.references[0] for shot in shots], {}


SOURCES: dict[str, Callable[[StageContext, Row, Sequence[Shot]], Made]] = {
    "customizer": _customized,
    "references": _first_references,
    "tuning": _tuned,
}
"""`Row.source` -> what makes its images."""
