"""Identity: DINOv2 class-token cosine of square crops around the object."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from transformers import AutoModel, BitImageProcessorPil, ViTImageProcessorPil, ViTModel

from models.scorers.crops import square_crop
from models.scorers.loading import in_batches, load_complete, pixels

BATCH = 64


class IdentityScorer:
    """Dinov2Model, Dinov2WithRegistersModel or DINO's ViTModel, from a standard transformers folder."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor

    @classmethod
    def from_pretrained(cls, folder: Path, device: str, dtype: torch.dtype) -> Self:
        """OSError if a file is missing, ValueError if weights are."""
        return cls(
            load_complete(AutoModel, folder, device, dtype),
            BitImageProcessorPil.from_pretrained(folder, local_files_only=True),
        )

    @classmethod
    def from_vit(cls, folder: Path, device: str, dtype: torch.dtype) -> Self:
        """The first DINO: a ViT whose published folder has no pooler, which nothing here reads."""
        return cls(
            load_complete(ViTModel, folder, device, dtype, add_pooling_layer=False),
            ViTImageProcessorPil.from_pretrained(folder, local_files_only=True),
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
