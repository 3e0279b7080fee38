"""Scores of one customized image: identity of the object, agreement with the text, both, and what may fool them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from models.evaluation.record import ImageMetrics
from models.evaluation.similarity import mean_cosine
from models.evaluation.tifa import tifa_score
from models.scorers.clip import ClipScorer
from models.scorers.frame import clipped_share, saturation
from models.scorers.identity import IdentityScorer
from models.scorers.vqa import VisualQuestionAnswerer

DIGITS = 6
SMALLEST_OBJECT = 0.005
"""Share of the frame below which what the segmenter marks is no object: 20 pixels of 64 x 64."""


def objects_found(masks: Sequence[np.ndarray]) -> np.ndarray:
    """bool (N,): whether each mask bool (H, W) holds an object of at least SMALLEST_OBJECT of the frame."""
    return np.array([mask.mean() >= SMALLEST_OBJECT for mask in masks])


def identity_scores(
    identity: IdentityScorer,
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    reference_embeddings: Sequence[np.ndarray],
    batch: int,
) -> tuple[np.ndarray, np.ndarray]:
    """MDINOv2-I (thesis appendix C.1.4): (N,) mean cosine of each image's object, background masked out and cropped, to
    its references (R_i, D); and (N,) `objects_found`. Where none was the score is 0: it is not there.
    """
    found = objects_found(masks)
    scores = np.zeros(len(images))
    places = np.flatnonzero(found)
    if places.size:
        embedded = identity.embed(
            [images[place] for place in places], [masks[place] for place in places], background=False, batch=batch
        )
        scores[places] = mean_cosine(embedded, [reference_embeddings[place] for place in places])
    return scores, found


def clip_scores(clip: ClipScorer, images: Sequence[np.ndarray], prompts: Sequence[str], batch: int) -> np.ndarray:
    """CLIPScore: (N,) cosine of each image and its own prompt, not scaled by 2.5 and not clipped at 0."""
    seen, told = clip.embed_images(images, batch=batch), clip.embed_texts(prompts, batch=batch)
    return np.einsum("nd,nd->n", seen.astype(np.float64), told.astype(np.float64))


def text_scores(
    answerer: ClipScorer | VisualQuestionAnswerer,
    metric: Literal["clip_facts", "clip_score", "tifa"],
    images: Sequence[np.ndarray],
    prompts: Sequence[str],
    facts: Sequence[Sequence[dict[str, Any]]],
    batch: int,
) -> np.ndarray:
    """(N,) agreement of each image with its own prompt; ValueError for a prompt without facts where they are asked."""
    if isinstance(answerer, VisualQuestionAnswerer) != (metric == "tifa"):
        raise ValueError(f"text metric {metric} cannot be answered by {type(answerer).__name__}")
    if isinstance(answerer, VisualQuestionAnswerer):
        return np.array([tifa_score(answerer, image, own) for image, own in zip(images, facts, strict=True)])
    if metric == "clip_facts":
        return np.array([answerer.answer_facts(image, list(own)) for image, own in zip(images, facts, strict=True)])
    return clip_scores(answerer, images, prompts, batch)


def geometric_mean(identity: float, text: float) -> float:
    return math.sqrt(max(0.0, identity) * max(0.0, text))


def image_metrics(
    image: np.ndarray, identity: float, text: float, object_found: bool, further: Mapping[str, float | None]
) -> ImageMetrics:
    """Everything about one image, rounded; ValueError if a score is no number or outside -1 to 1.

    `further`: clip_score, clip_i, dino, dinov2_i, copy_paste and diversity, as far as they were asked for.
    """
    for name, value in {"identity": identity, "text": text, **further}.items():
        if value is not None and not -1.0001 <= value <= (2.0001 if name == "diversity" else 1.0001):
            raise ValueError(f"{name} score is {value!r}; allowed: -1 to {2 if name == 'diversity' else 1}")
    return ImageMetrics(
        identity=_rounded(identity),
        text=_rounded(text),
        geometric=_rounded(geometric_mean(identity, text)),
        saturation=_rounded(saturation(image)),
        clipped=_rounded(clipped_share(image)),
        object_found=bool(object_found),
        **{name: None if value is None else _rounded(value) for name, value in further.items()},
    )


def _rounded(value: float) -> float:
    return round(float(value), DIGITS) + 0.0
