"""Masks of named objects in any picture: a detector finds the box, SAM the object in it (thesis appendix C.1.4)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from transformers import SamImageProcessorPil, SamModel

from models.scorers.detector import Detector
from models.scorers.loading import load_complete

BATCH = 8
Box = tuple[float, float, float, float]


class BoxSegmenter:
    """SamModel with its image processor, from a standard transformers folder: the object in a box."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor

    @classmethod
    def from_pretrained(cls, folder: Path, device: str, dtype: torch.dtype) -> Self:
        """OSError if a file is missing, ValueError if weights are."""
        return cls(
            load_complete(SamModel, folder, device, dtype),
            SamImageProcessorPil.from_pretrained(folder, local_files_only=True),
        )

    @torch.inference_mode()
    def masks(self, images: Sequence[np.ndarray], boxes: Sequence[Box], batch: int = BATCH) -> list[np.ndarray]:
        """bool (H, W) of every uint8 (H, W, 3) image: the object in its box (left, top, right, bottom in pixels).

        One mask per box, not SAM's three readings of it: a box leaves little doubt about what is meant.
        """
        found = []
        for start in range(0, len(images), batch):
            part = images[start : start + batch]
            seen = self.processor(images=list(part), input_data_format="channels_last", return_tensors="pt")
            original, reshaped = seen["original_sizes"].tolist(), seen["reshaped_input_sizes"].tolist()
            scaled = [
                [box[0] * w / width, box[1] * h / height, box[2] * w / width, box[3] * h / height]
                for box, (height, width), (h, w) in zip(boxes[start : start + batch], original, reshaped, strict=True)
            ]
            output = self.model(
                pixel_values=seen["pixel_values"].to(self.model.device, self.model.dtype),
                input_boxes=torch.tensor(scaled, dtype=self.model.dtype, device=self.model.device)[:, None],
                multimask_output=False,
            )
            logits = [mask.float().cpu() for mask in output.pred_masks]
            found += [mask[0, 0].numpy() for mask in self.processor.post_process_masks(logits, original, reshaped)]
        return found


@dataclass(frozen=True)
class GroundedSegmenter:
    """Detector, then SAM. `threshold`: score (0 to 1) above which a detection counts."""

    detector: Detector
    segmenter: BoxSegmenter
    threshold: float

    def masks(self, images: Sequence[np.ndarray], phrases: Sequence[str], batch: int = BATCH) -> list[np.ndarray]:
        """bool (H, W) of every image's own phrase; all false where the detector finds no such object."""
        found = self.detector.detect(images, phrases, self.threshold, batch)
        places = [place for place, detection in enumerate(found) if detection is not None]
        boxes = [detection.box for detection in found if detection is not None]
        cut = dict(zip(places, self.segmenter.masks([images[place] for place in places], boxes, batch), strict=True))
        return [cut.get(place, np.zeros(image.shape[:2], dtype=bool)) for place, image in enumerate(images)]
