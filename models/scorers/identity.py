"""Identity: DINOv2 class-token cosine of square crops around the object."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from transformers import AutoModel, BitImageProcessorPil

from models.scorers.crops import square_crop
from models.scorers.loading import in_batches, load_complete, pixels

BATCH = 64
NO_OBJECT = -1.0
"""Stands for a similarity to an image that does not show the object."""


class IdentityScorer:
    """Dinov2Model or Dinov2WithRegistersModel, from a standard transformers folder."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor

    @classmethod
    def from_pretrained(cls, folder: Path, device: str, dtype: torch.dtype) -> Self:
        """OSError if a file is missing, ValueError if weights are."""
        return cls(
            load_complete(AutoModel, folder, device, dtype),
            BitImageProcessorPil.from_pretrained(folder, local_files_only=True),
        )

    @torch.inference_mode()
    def embed(
        self,
        images: Sequence[np.ndarray],
        masks: Sequence[np.ndarray] | None,
        background: bool = True,
        batch: int = BATCH,
    ) -> np.ndarray:
        """L2-normed class tokens, float32 (N, D).

        `images` uint8 (H, W, 3); `masks` bool (H, W) of the object, or None to take whole images. With `background`
        off everything outside the mask is grey. Raises EmptyMaskError for a mask without object pixels, ValueError
        for `background` off without masks.
        """
        if masks is None:
            if not background:
                raise ValueError("background is off but there are no masks to tell it from the object")
            crops = list(images)
        else:
            crops = [square_crop(image, mask, background) for image, mask in zip(images, masks, strict=True)]

        def run(part: Sequence[np.ndarray]) -> torch.Tensor:
            values = pixels(self.processor, part).to(self.model.device, self.model.dtype)
            tokens_ntd = self.model(pixel_values=values).last_hidden_state
            return torch.nn.functional.normalize(tokens_ntd[:, 0].float(), dim=-1)

        return in_batches(run, crops, batch)


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
