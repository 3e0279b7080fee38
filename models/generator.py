"""What every generator of image sets takes and gives; a base model is one implementation of `ImageSetGenerator`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from data.correspondence import Correspondence


@dataclass(frozen=True)
class SetRequest:
    """One set of K images of one object. Raises ValueError when the parts do not belong together."""

    prompts: tuple[str, ...]
    """One per image, without the suffix of the settings."""
    seeds: tuple[int, ...]
    """One per image, in [0, 2**63): the whole source of its noise."""
    depth: np.ndarray | None = None
    """(K, H, W) floats in [0, 1], normalised inverse depth, background 0; None: no depth condition."""
    masks: np.ndarray | None = None
    """(K, H, W) bool, True on the object; shared attention needs them, or `subject`."""
    subject: str | None = None
    """The object's name or looks, for a set without masks: these words stand in each prompt (the last of them in the
    singular or the plural), and the masks come from the attention to them."""
    correspondences: dict[tuple[int, int], Correspondence] | None = None
    """By (target, source); warping needs every pair with source < target and uses only those."""

    def __post_init__(self) -> None:
        if not self.prompts:
            raise ValueError("prompts is empty; a set needs at least 1 image")
        if len(self.seeds) != self.size:
            raise ValueError(f"{len(self.seeds)} seeds for {self.size} prompts; give one seed per prompt")
        for seed in self.seeds:
            if not 0 <= seed < 2**63:
                raise ValueError(f"seed {seed} is out of range; allowed: 0 to 2**63 - 1")
        if self.depth is not None:
            self._check_stack("depth", self.depth, np.floating)
            low, high = float(self.depth.min()), float(self.depth.max())
            if not (low >= 0 and high <= 1):
                raise ValueError(f"depth reaches from {low:g} to {high:g}; allowed: 0 to 1, no NaN")
        if self.masks is not None and self.subject is not None:
            raise ValueError(f"masks and the subject {self.subject!r} are both given; masks come from one of them")
        if self.masks is not None:
            self._check_stack("masks", self.masks, np.bool_)

    @property
    def size(self) -> int:
        """K, the number of images."""
        return len(self.prompts)

    def _check_stack(self, name: str, stack: np.ndarray, kind: type) -> None:
        if not np.issubdtype(stack.dtype, kind):
            raise ValueError(f"{name} holds {stack.dtype}; allowed: {kind.__name__}")
        if stack.ndim != 3 or len(stack) != self.size or not stack.size:
            raise ValueError(f"{name} has shape {stack.shape}; a set of {self.size} needs ({self.size}, H, W)")


@dataclass(frozen=True)
class GenerateSettings:
    """How sets are sampled. Raises ValueError naming the value and what is allowed."""

    height: int
    width: int
    steps: int = 30
    guidance_scale: float = 10.0
    """Embedded (distilled) guidance; a model without guidance embeddings ignores it."""
    true_cfg_scale: float = 2.5
    """1 turns the negative prompt off."""
    negative_prompt: str = "3d render, low resolution, blurry, cartoon, illustration"
    prompt_suffix: str = ""
    """A sentence that is put behind every prompt."""
    cfg_start_step: int = 1
    """First step, from 0, that uses the negative prompt."""
    msa: bool = True
    """Masked shared attention between the images of a set; off: they are independent."""
    msa_first_step: Literal["full", "masked"] = "full"
    """full: at the first step image queries see every image token of the other images."""
    mask_dilation: int = 1
    """Side of the dilation window in tokens; 1 leaves the mask as it is."""
    rope: Literal["release", "stacked"] = "release"
    """release: other images' keys lie below the query's own image; stacked: one image of height K*H."""
    warp: Literal["none", "latents", "features"] = "latents"
    warp_share: float = 0.2
    """Share of the steps, from the first, that warp."""
    vae_tiling: bool = False
    """Decode in blended tiles: less memory, slightly other pixels."""

    def __post_init__(self) -> None:
        _check_range("height", self.height, 1, 8192)
        _check_range("width", self.width, 1, 8192)
        _check_range("steps", self.steps, 1, 1000)
        _check_range("guidance_scale", self.guidance_scale, 0, 100)
        _check_range("true_cfg_scale", self.true_cfg_scale, 1, 100)
        _check_range("cfg_start_step", self.cfg_start_step, 0, 1000)
        _check_choice("msa_first_step", self.msa_first_step, ("full", "masked"))
        _check_range("mask_dilation", self.mask_dilation, 1, 63)
        if self.mask_dilation % 2 == 0:
            raise ValueError(f"mask_dilation is {self.mask_dilation}; allowed: odd numbers, so that it is symmetric")
        _check_choice("rope", self.rope, ("release", "stacked"))
        _check_choice("warp", self.warp, ("none", "latents", "features"))
        _check_range("warp_share", self.warp_share, 0, 1)

    def told(self, prompt: str) -> str:
        """What the model is given for a prompt: with the suffix, each as a sentence of its own."""
        if not self.prompt_suffix:
            return prompt
        whole = prompt.rstrip()
        return f"{whole}{'' if whole.endswith(('.', '!', '?')) else '.'} {self.prompt_suffix.strip()}"


@dataclass(frozen=True)
class ImageSet:
    """One generated set."""

    images: np.ndarray
    """uint8 (K, height, width, 3) RGB."""
    masks: np.ndarray | None
    """(K, height, width) bool, True on the object: those of the request, or found in the attention; None: neither."""


class ImageSetGenerator(Protocol):
    """A loaded base model that makes consistent image sets."""

    def check(self, request: SetRequest, settings: GenerateSettings) -> None:
        """Raise ValueError if this model cannot make the set; `generate` checks the same before it starts."""

    def encode_sets(self, requests: Sequence[SetRequest], settings: GenerateSettings) -> Any:
        """What the model makes of the prompts of these sets: computed once for all, for `generate_many` to take."""

    def generate(self, request: SetRequest, settings: GenerateSettings) -> ImageSet:
        """One set."""

    def generate_many(
        self, requests: Sequence[SetRequest], settings: GenerateSettings, texts: Any = None
    ) -> list[ImageSet]:
        """Sets denoised together as one batch, results in the order of the requests."""


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} is {value!r}; allowed: {low} to {high}")


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; allowed: {', '.join(allowed)}")
