"""Similarities within a set, from the embeddings of its images."""

import numpy as np

NO_OBJECT = -1.0
"""Stands for a similarity to an image that does not show the object."""


def cosine_pairs(embeddings_kd: np.ndarray) -> np.ndarray:
    """float64 (K, K) cosines of L2-normed rows; symmetric, the diagonal exactly 1."""
    pairs = embeddings_kd.astype(np.float64) @ embeddings_kd.astype(np.float64).T
    pairs = (pairs + pairs.T) / 2
    np.fill_diagonal(pairs, 1.0)
    return np.clip(pairs, -1.0, 1.0)


def mean_of_others(pairs_kk: np.ndarray) -> np.ndarray:
    """(K,) mean cosine of each image to the other K - 1; ValueError for a set of one."""
    count = len(pairs_kk)
    if count < 2:
        raise ValueError(f"a set of {count}: similarity to the rest of the set needs at least 2 images")
    return (pairs_kk.sum(axis=1) - np.diag(pairs_kk)) / (count - 1)


def pairs_of_found(embeddings_fd: np.ndarray, found_k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`cosine_pairs` (K, K) and `mean_of_others` (K,) where only the images of `found_k` (K,) bool show the object.

    `embeddings_fd`: of those F images. An image that shows none is at -1 from all others and is left out of their
    means; so is one that has no other.
    """
    pairs, means = np.full((len(found_k), len(found_k)), NO_OBJECT), np.full(len(found_k), NO_OBJECT)
    np.fill_diagonal(pairs, 1.0)
    own = cosine_pairs(embeddings_fd)
    pairs[np.ix_(found_k, found_k)] = own
    if len(own) > 1:
        means[found_k] = mean_of_others(own)
    return pairs, means
