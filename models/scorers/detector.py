"""Objects found by name: boxes of a phrase in a picture, by Grounding DINO."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from transformers import AutoModelForZeroShotObjectDetection, AutoTokenizer, GroundingDinoImageProcessorPil
from transformers.image_transforms import center_to_corners_format

from models.scorers.loading import load_complete

BATCH = 8


@dataclass(frozen=True)
class Detection:
    box: tuple[float, float, float, float]
    """Left, top, right, bottom in pixels of the image, within it."""
    score: float
    """0 to 1: the largest of the phrase's tokens, as the model's own post-processing takes it."""


class Detector:
    """GroundingDinoForObjectDetection with its tokenizer and image processor, from a standard transformers folder."""

    def __init__(self, model: Any, tokenizer: Any, processor: Any) -> None:
        self.model, self.tokenizer, self.processor = model, tokenizer, processor

    @classmethod
    def from_pretrained(cls, folder: Path, device: str, dtype: torch.dtype) -> Self:
        """OSError if a file is missing, ValueError if weights are."""
        return cls(
            load_complete(AutoModelForZeroShotObjectDetection, folder, device, dtype),
            AutoTokenizer.from_pretrained(folder, local_files_only=True),
            GroundingDinoImageProcessorPil.from_pretrained(folder, local_files_only=True),
        )

    @torch.inference_mode()
    def detect(
        self, images: Sequence[np.ndarray], phrases: Sequence[str], threshold: float, batch: int = BATCH
    ) -> list[Detection | None]:
        """The best box of each image's own phrase ("rubber duck"); None if none scores above `threshold` (0 to 1).

        `images` uint8 (H, W, 3). Only images of one size and phrase go through the model together, so that nothing is
        padded and no result depends on its neighbours. ValueError for an empty phrase.
        """
        alike: dict[tuple[tuple[int, ...], str], list[int]] = {}
        for place, (image, phrase) in enumerate(zip(images, phrases, strict=True)):
            if not phrase.strip(" ."):
                raise ValueError(f"image {place}: the phrase to look for is {phrase!r}; name the object")
            alike.setdefault((image.shape, phrase), []).append(place)
        found: dict[int, Detection | None] = {}
        for (_, phrase), places in alike.items():
            for start in range(0, len(places), batch):
                part = places[start : start + batch]
                best = self._best([images[place] for place in part], phrase, threshold)
                found.update(zip(part, best, strict=True))
        return [found[place] for place in range(len(images))]

    def _best(self, images: list[np.ndarray], phrase: str, threshold: float) -> list[Detection | None]:
        device = self.model.device
        seen = self.processor(images=images, input_data_format="channels_last", return_tensors="pt")
        # The model was trained on lower-case phrases that end in a full stop.
        text = self.tokenizer([f"{phrase.lower().strip(' .')}."] * len(images), return_tensors="pt").to(device)
        output = self.model(
            pixel_values=seen["pixel_values"].to(device, self.model.dtype),
            pixel_mask=seen["pixel_mask"].to(device),
            input_ids=text["input_ids"],
            attention_mask=text["attention_mask"],
        )
        scores_nq = output.logits.float().sigmoid().amax(dim=-1)
        boxes_nq4 = center_to_corners_format(output.pred_boxes.float()).clamp(0, 1).cpu()
        height, width = images[0].shape[:2]
        result: list[Detection | None] = []
        for scores_q, boxes_q4 in zip(scores_nq.cpu(), boxes_nq4, strict=True):
            best = int(scores_q.argmax())
            left, top, right, bottom = (boxes_q4[best] * torch.tensor([width, height, width, height])).tolist()
            score = float(scores_q[best])
            result.append(Detection((left, top, right, bottom), score) if score > threshold else None)
        return result
