"""Foreground masks of images that have no render: a semantic segmentation net whose classes include `background`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from transformers import AutoModelForSemanticSegmentation, SegformerImageProcessorPil

from models.scorers.loading import load_complete, pixels

BATCH = 64
BACKGROUND = "background"


class Segmenter:
    """SegformerForSemanticSegmentation (or a class alike), from a standard transformers folder."""

    def __init__(self, model: Any, processor: Any) -> None:
        labels = {str(name): int(number) for number, name in model.config.id2label.items()}
        if BACKGROUND not in labels:
            raise ValueError(f"segmenter: no class is called {BACKGROUND!r} in id2label of its config: {labels}")
        self.model, self.processor, self.background = model, processor, labels[BACKGROUND]

    @classmethod
    def from_pretrained(cls, folder: Path, device: str, dtype: torch.dtype) -> Self:
        """OSError if a file is missing, ValueError if weights are or if no class is the background."""
        return cls(
            load_complete(AutoModelForSemanticSegmentation, folder, device, dtype),
            SegformerImageProcessorPil.from_pretrained(folder, local_files_only=True),
        )

    @torch.inference_mode()
    def masks(self, images: Sequence[np.ndarray], batch: int = BATCH) -> list[np.ndarray]:
        """bool (H, W) for every uint8 (H, W, 3) image: true where the likeliest class is not the background.

        A mask may be all false; scores that need an object then raise EmptyMaskError.
        """
        found = []
        for start in range(0, len(images), batch):
            part = images[start : start + batch]
            values = pixels(self.processor, part).to(self.model.device, self.model.dtype)
            logits_nchw = self.model(pixel_values=values).logits.float()
            for image, logits in zip(part, logits_nchw, strict=True):
                full = torch.nn.functional.interpolate(
                    logits[None], size=image.shape[:2], mode="bilinear", align_corners=False
                )
                found.append((full[0].argmax(dim=0) != self.background).cpu().numpy())
        return found
