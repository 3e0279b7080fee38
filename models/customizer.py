"""What every customization model takes and gives; a base model is one implementation of `Customizer`."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from configs.evaluation import Guidance
from configs.schema import ModelRef
from configs.training import ReferenceForm
from models.guidance import DualGuidance, Norms, OnStep
from models.registry import load_with

LOADERS = {
    "flux": "models.flux.customizer:FluxCustomizer.from_pretrained",
    "unet": "models.unet.customizer:UNetCustomizer.from_pretrained",
}
"""Architecture -> `module:function(folder, device, dtype)` of its customization model; imported when first used."""

Features = Mapping[str, Tensor]
"""What a model computes once from an image or a prompt and keeps: named tensors without a batch dimension."""


@dataclass(frozen=True)
class CustomizeRequest:
    """One image to make. Raises ValueError for an impossible seed, and for references or masks of a wrong form."""

    prompt: str
    seed: int
    references: tuple[np.ndarray, ...] = ()
    """uint8 (H, W, 3) images of the object; none: what the model makes of the text alone."""
    masks: tuple[np.ndarray, ...] | None = None
    """bool (H, W), the object in every reference, for models that look at the object alone."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed {self.seed} is out of range; allowed: 0 to 2**63 - 1")
        for image in self.references:
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise ValueError(f"a reference is {image.dtype} {image.shape}; allowed: uint8 (H, W, 3)")
        if self.masks is None:
            return
        if len(self.masks) != len(self.references):
            raise ValueError(f"{len(self.masks)} masks for {len(self.references)} references; give one per reference")
        for image, mask in zip(self.references, self.masks, strict=True):
            if mask.dtype != np.bool_ or mask.shape != image.shape[:2]:
                raise ValueError(f"a mask is {mask.dtype} {mask.shape}; its reference needs bool {image.shape[:2]}")
            if not mask.any():
                raise ValueError("a mask is empty; it must be true on the object")


@dataclass(frozen=True)
class CustomizeSettings:
    """How images are sampled. Raises ValueError naming the value and what is allowed."""

    height: int
    width: int
    steps: int = 30
    guidance_scale: float = 3.5
    """Embedded (distilled) guidance; a model without guidance embeddings ignores it."""
    guidance: Guidance = field(default_factory=Guidance)

    def __post_init__(self) -> None:
        for name, low, high in (
            ("height", 1, 8192),
            ("width", 1, 8192),
            ("steps", 1, 1000),
            ("guidance_scale", 0, 100),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} is {value!r}; allowed: {low} to {high}")


GuidanceTrace = dict[int, list[Norms]]
"""Place of a request -> norms of its guidance vectors, step by step."""
MakeBatch = Callable[[Sequence[CustomizeRequest], DualGuidance], Sequence[np.ndarray]]


def generate_in_batches(
    requests: Sequence[CustomizeRequest],
    guidance: Guidance,
    make: MakeBatch,
    trace: GuidanceTrace | None,
    on_step: OnStep | None,
) -> list[np.ndarray]:
    """Requests with and requests without references, each as one batch of `make`; fills `trace`."""
    images: dict[int, np.ndarray] = {}
    for with_references in (False, True):
        places = [place for place, request in enumerate(requests) if bool(request.references) == with_references]
        if not places:
            continue
        dual = DualGuidance(guidance, on_step)
        images.update(zip(places, make([requests[place] for place in places], dual), strict=True))
        if trace is not None:
            trace.update(zip(places, dual.norms(), strict=False))
    return [images[place] for place in range(len(requests))]


@dataclass(frozen=True)
class TrainingBatch:
    """What one training step needs, one entry per sample; an empty tuple of references is a dropped image condition."""

    targets: Sequence[Features]
    texts: Sequence[Features]
    references: Sequence[Sequence[Features]]


class Customizer(Protocol):
    """A loaded text-to-image model with (after `add_adapter` or `load_adapter`) an adapter that reads references."""

    device: torch.device
    dtype: torch.dtype
    references: ReferenceForm
    """How references enter; assigning it switches the form."""

    def generate_many(
        self,
        requests: Sequence[CustomizeRequest],
        settings: CustomizeSettings,
        trace: GuidanceTrace | None = None,
        on_step: OnStep | None = None,
    ) -> list[np.ndarray]:
        """uint8 (height, width, 3) for every request, those with and those without references as one batch each.

        `trace` is filled for requests with references; `on_step` is told every step of each batch. ValueError for
        what cannot be made.
        """

    def without_adapter(self) -> AbstractContextManager[None]:
        """Inside, the model is the base model."""

    @property
    def network(self) -> nn.Module:
        """The denoising network: what holds the adapter, and is called in `losses`."""

    @property
    def tokenizers(self) -> Sequence[PreTrainedTokenizerBase]: ...

    @property
    def text_encoders(self) -> Sequence[PreTrainedModel]:
        """In the order of their tokenizers."""

    @property
    def attention_layers(self) -> Sequence[str]:
        """Endings of the names of all attention projections of the network."""

    def text_attention(self) -> dict[str, nn.Linear]:
        """Key and value projections of text cross-attention, by name; none where text is attended to otherwise."""

    @property
    def needs_masks(self) -> bool:
        """Whether references come with object masks."""

    def image_features(self, images: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> list[Features]:
        """What is kept of uint8 images (H, W, 3) of one size with their object masks bool (H, W)."""

    def target_features(self, images: Sequence[np.ndarray]) -> list[Features]:
        """What a training target needs of images that are no reference, and so have no mask."""

    def text_features(self, prompts: Sequence[str]) -> list[Features]:
        """Of each prompt, with gradients to what of the text encoders is being trained."""

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """ValueError for a prompt that a text encoder would have to cut."""

    def add_adapter(self, rank: int, targets: str, seed: int) -> None:
        """A fresh trainable adapter that changes nothing yet."""

    def adapter_parameters(self) -> dict[str, nn.Parameter]: ...

    def adapter_state(self) -> dict[str, Tensor]: ...

    def set_adapter_state(self, state: dict[str, Tensor]) -> None: ...

    def adapter_file(self, metadata: dict[str, str]) -> bytes:
        """The adapter as a file for publication, `metadata` in its header."""

    def load_adapter(self, file: Path) -> dict[str, str]:
        """Load such a file for inference; returns its metadata."""

    def recompute_activations(self) -> None:
        """From now on keep no activations of the network's blocks for the backward pass; losses stay bit-equal."""

    def losses(self, batch: TrainingBatch, generators: Sequence[torch.Generator]) -> Tensor:
        """Loss (B,) float32 of every sample, on the target alone.

        All that is random of a sample comes from its own CPU generator, so that it does not depend on the batch.
        """


def too_long(customizer: Customizer, prompt: str) -> str | None:
    """Why a text encoder would have to cut the prompt; None if it takes it whole."""
    try:
        customizer.check_prompts([prompt])
    except ValueError as error:
        return str(error)
    return None


def load_customizer(ref: ModelRef, device: str, dtype: str, references: ReferenceForm) -> Customizer:
    """A customization model of the caller's own, without adapter, on the pinned base model `ref`.

    ModelError if it cannot be loaded or if no customization model is known for its architecture.
    """
    customizer: Customizer = load_with(LOADERS, ref, device, dtype)
    customizer.references = references
    return customizer
