"""What tuning starts from: the model and its object."""

import hashlib
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from configs.schema import ModelRef
from data.shards import write_atomic
from models.customizer import Customizer, CustomizeSettings
from models.lora import canonical_safetensors


@dataclass(frozen=True)
class Run:
    """A base model, and how its class images are sampled. Tuned weights and class images are kept in `cache`."""

    customizer: Customizer
    base: ModelRef
    sampling: CustomizeSettings
    batch_images: int
    seed: int
    cache: Path

    @property
    def origin(self) -> dict[str, Any]:
        """All of it that tuned weights and class images follow from."""
        return {
            "base": self.base.model_dump(),
            "dtype": str(self.customizer.dtype),
            "sampling": asdict(self.sampling) | {"guidance": self.sampling.guidance.model_dump()},
            "batch_images": self.batch_images,
            "seed": self.seed,
        }

    def keep(self, file: Path, tensors: dict[str, Tensor]) -> None:
        """Write a safetensors file of the cache; it is at any moment absent or complete."""
        self.cache.mkdir(parents=True, exist_ok=True)
        write_atomic(file, canonical_safetensors(tensors, {"format": "pt"}))


@dataclass(frozen=True, eq=False)
class Concept:
    """One object: references uint8 (H, W, 3) of one size, and the noun of its class."""

    id: str
    noun: str
    references: tuple[np.ndarray, ...]

    @cached_property
    def digest(self) -> str:
        """sha256 of the references."""
        found = hashlib.sha256()
        for image in self.references:
            found.update(f"{image.shape}".encode() + np.ascontiguousarray(image).tobytes())
        return found.hexdigest()
