"""Scores of one customized image: identity of the object, agreement with the text, both, saturation."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from models.scorers.clip import ClipScorer
from models.scorers.frame import clipped_share, saturation
from models.scorers.identity import IdentityScorer
from models.scorers.segmenter import Segmenter


@dataclass(frozen=True)
class ImageMetrics:
    identity: float
    """Masked DINOv2 cosine to the references, mean over them; 0 where no object was found."""
    text: float
    """clip_facts: share of the facts answered right; clip_score: cosine of image and prompt."""
    geometric: float
    """Geometric mean of the two, negatives counted as 0; tables average this, not its parts."""
    saturation: float
    """Mean HSV saturation, 0 to 1."""
    clipped: float
    """Share of channel values at 0 or 255, 0 to 1: what overexposure does."""
    object_found: bool

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


DIGITS = 6
SMALLEST_OBJECT = 0.005
"""Share of the frame below which what the segmenter marks is no object: 20 pixels of 64 x 64."""


def identity_scores(
    identity: IdentityScorer,
    segmenter: Segmenter,
    images: Sequence[np.ndarray],
    reference_embeddings: Sequence[np.ndarray],
    batch: int,
) -> tuple[np.ndarray, np.ndarray]:
    """(N,) mean cosine of each image's object, background masked out, to its references (R_i, D); and (N,) whether the
    segmenter found an object of at least SMALLEST_OBJECT of the frame. Where not the score is 0: it is not there.
    """
    masks = segmenter.masks(images, batch=batch)
    found = np.array([mask.mean() >= SMALLEST_OBJECT for mask in masks])
    scores = np.zeros(len(images))
    places = np.flatnonzero(found)
    if places.size:
        embedded = identity.embed(
            [images[place] for place in places], [masks[place] for place in places], background=False, batch=batch
        )
        for row, place in zip(embedded, places, strict=True):
            scores[place] = float(np.mean(reference_embeddings[place].astype(np.float64) @ row.astype(np.float64)))
    return scores, found


def text_scores(
    clip: ClipScorer,
    metric: Literal["clip_facts", "clip_score"],
    images: Sequence[np.ndarray],
    prompts: Sequence[str],
    facts: Sequence[Sequence[dict[str, Any]]],
    batch: int,
) -> np.ndarray:
    """(N,) agreement of each image with its own prompt; ValueError for a prompt without facts under clip_facts."""
    if metric == "clip_facts":
        pairs = zip(images, facts, strict=True)
        return np.array([clip.answer_facts(image, list(own)) for image, own in pairs])
    seen, told = clip.embed_images(images, batch=batch), clip.embed_texts(prompts, batch=batch)
    return np.einsum("nd,nd->n", seen.astype(np.float64), told.astype(np.float64))


def geometric_mean(identity: float, text: float) -> float:
    return math.sqrt(max(0.0, identity) * max(0.0, text))


def image_metrics(image: np.ndarray, identity: float, text: float, object_found: bool) -> ImageMetrics:
    """Everything about one image, rounded; ValueError if a score is no number or outside -1 to 1."""
    for name, value in (("identity", identity), ("text", text)):
        if not -1.0001 <= value <= 1.0001:
            raise ValueError(f"{name} score is {value!r}; allowed: -1 to 1")
    return ImageMetrics(
        identity=round(float(identity), DIGITS),
        text=round(float(text), DIGITS),
        geometric=round(geometric_mean(identity, text), DIGITS),
        saturation=round(saturation(image), DIGITS),
        clipped=round(clipped_share(image), DIGITS),
        object_found=bool(object_found),
    )
