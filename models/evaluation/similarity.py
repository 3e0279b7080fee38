"""How alike pictures are, from L2-normed embeddings: to the references, behind the object, and to each other."""

from collections.abc import Hashable, Sequence

import numpy as np

from models.scorers.crops import without_object
from models.scorers.identity import IdentityScorer


def mean_cosine(embedded_nd: np.ndarray, references: Sequence[np.ndarray]) -> np.ndarray:
    """float64 (N,): each row's cosine to its own references (R_i, D), mean over them."""
    return np.array([pairs.mean() for pairs in _cosines(embedded_nd, references)])


def nearest_cosine(embedded_nd: np.ndarray, references: Sequence[np.ndarray]) -> np.ndarray:
    """float64 (N,): each row's cosine to the most similar of its own references (R_i, D)."""
    return np.array([pairs.max() for pairs in _cosines(embedded_nd, references)])


def _cosines(embedded_nd: np.ndarray, references: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [own.astype(np.float64) @ row.astype(np.float64) for row, own in zip(embedded_nd, references, strict=True)]


def embed_contexts(
    identity: IdentityScorer, images: Sequence[np.ndarray], masks: Sequence[np.ndarray], batch: int
) -> np.ndarray:
    """float32 (N, D) of what is behind the object: images uint8 (H, W, 3), grey where their mask bool (H, W) is true.

    Copy-paste is `nearest_cosine` of these to those of the references: a method that pastes the object together with
    what was around it comes near 1. An image in which no object was found is taken as it is.
    """
    contexts = [without_object(image, mask) for image, mask in zip(images, masks, strict=True)]
    return identity.embed(contexts, None, batch=batch)


def diversity(embedded_nd: np.ndarray, groups: Sequence[Hashable]) -> list[float | None]:
    """Of each row, 1 - cosine to the others of its group, mean over them: 0 for equal images; None for one alone.

    A group is what should differ by its noise only: the images of one prompt of one object.
    """
    members: dict[Hashable, list[int]] = {}
    for place, group in enumerate(groups):
        members.setdefault(group, []).append(place)
    values = embedded_nd.astype(np.float64)
    result: list[float | None] = []
    for place, group in enumerate(groups):
        others = [other for other in members[group] if other != place]
        result.append(float(np.mean(1 - values[others] @ values[place])) if others else None)
    return result
