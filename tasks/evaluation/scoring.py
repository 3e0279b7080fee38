"""Scores of the images of every row, with one yardstick: all references of an object, and one way to find it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.stage import StageContext
from models import registry
from models.evaluation.metrics import clip_scores, identity_scores, image_metrics, text_scores
from models.evaluation.record import ImageMetrics
from models.evaluation.similarity import diversity, embed_contexts, mean_cosine, nearest_cosine
from models.scorers.grounded import GroundedSegmenter
from tasks.evaluation.subjects import Subject

Embed = Callable[[Sequence[np.ndarray]], np.ndarray]
Finder = Callable[[Sequence[np.ndarray], Sequence[str]], list[np.ndarray]]
"""Images and what is looked for in them to masks, all false where it is not found."""


@dataclass(frozen=True)
class Shot:
    """One image to make in every row."""

    subject: Subject
    prompt: int
    seed: int
    noise_seed: int


def open_finder(ctx: StageContext) -> Finder:
    """Detector and SAM by the object's phrase, or a segmenter that knows one object from its background."""
    section, models, device = ctx.recipe.evaluate, ctx.recipe.models, ctx.device
    segmenter = registry.load(models.segmenter, device, "float32")
    if models.detector is None:
        return lambda images, _: segmenter.masks(images, batch=section.batch_images)
    detector = registry.load(models.detector, device, "float32")
    grounded = GroundedSegmenter(detector, segmenter, section.detection_threshold)
    return lambda images, phrases: grounded.masks(images, phrases, section.batch_images)


def score_images(
    ctx: StageContext, shots: Sequence[Shot], images: Mapping[str, Sequence[np.ndarray]]
) -> dict[str, list[ImageMetrics]]:
    """Row -> scores of its images uint8 (H, W, 3), which come in the order of `shots`."""
    section, models, batch = ctx.recipe.evaluate, ctx.recipe.models, ctx.recipe.evaluate.batch_images
    identity, clip = (registry.load(ref, ctx.device, "float32") for ref in (models.identity, models.clip))
    answerer = registry.load(models.vqa, ctx.device, "float32") if section.text_metric == "tifa" else clip
    find = open_finder(ctx)
    wholes = _whole_image_metrics(ctx, identity, clip)
    subjects = {shot.subject.id: shot.subject for shot in shots}

    def of_references(embed: Callable[[Subject], np.ndarray]) -> list[np.ndarray]:
        embedded = {name: embed(subject) for name, subject in subjects.items()}
        return [embedded[shot.subject.id] for shot in shots]

    masked = of_references(lambda own: identity.embed(own.references, own.masks, background=False, batch=batch))
    whole = {name: of_references(lambda own, embed=embed: embed(own.references)) for name, embed in wholes.items()}
    behind: list[np.ndarray] = []
    if "copy_paste" in section.metrics:
        behind = of_references(lambda own: embed_contexts(identity, own.references, own.masks, batch))
    prompts = [shot.subject.prompts[shot.prompt] for shot in shots]
    texts, facts = [prompt.text for prompt in prompts], [prompt.facts for prompt in prompts]
    scored = {}
    for row, own in images.items():
        masks = find(own, [shot.subject.phrase for shot in shots])
        same, found = identity_scores(identity, own, masks, masked, batch)
        agree = text_scores(answerer, section.text_metric, own, texts, facts, batch)
        further: dict[str, Sequence[float | None]] = {
            name: mean_cosine(embed(own), whole[name]).tolist() for name, embed in wholes.items()
        }
        if "clip_score" in section.metrics:
            further["clip_score"] = clip_scores(clip, own, texts, batch).tolist()
        if "copy_paste" in section.metrics:
            further["copy_paste"] = nearest_cosine(embed_contexts(identity, own, masks, batch), behind).tolist()
        if "diversity" in section.metrics:
            groups = [(shot.subject.id, shot.prompt) for shot in shots]
            further["diversity"] = diversity(identity.embed(own, None, batch=batch), groups)
        scored[row] = [
            image_metrics(*one, {name: values[place] for name, values in further.items()})
            for place, one in enumerate(zip(own, same, agree, found, strict=True))
        ]
    return scored


def _whole_image_metrics(ctx: StageContext, identity: Any, clip: Any) -> dict[str, Embed]:
    section, batch = ctx.recipe.evaluate, ctx.recipe.evaluate.batch_images
    embeds: dict[str, Embed] = {}
    if "clip_i" in section.metrics:
        embeds["clip_i"] = lambda images: clip.embed_images(images, batch=batch)
    if "dinov2_i" in section.metrics:
        embeds["dinov2_i"] = lambda images: identity.embed(images, None, batch=batch)
    if "dino" in section.metrics:
        dino = registry.load(ctx.recipe.models.dino, ctx.device, "float32")
        embeds["dino"] = lambda images: dino.embed(images, None, batch=batch)
    return embeds
