"""Reference images in the self-attention of a U-Net (Ours-3B and Ours-1B).

At every denoising step the references, noised to the target's timestep, go through the U-Net on their own, without
text, image tokens and LoRA: features of the base model. What each self-attention layer sees there is recorded. In the
target's pass that layer projects own and recorded features with its own, adapted, K and V, and the target's queries
attend to both: to all own keys, and to the references' keys on the object.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor

from models.masks import token_masks

SELF_ATTENTION = "attn1.processor"


@dataclass(frozen=True)
class Reference:
    """One reference: clean latents (C, h, w), and which of them hold the object, (h, w) bool; None: all are seen."""

    latents: Tensor
    mask: Tensor | None
    _places: dict[int, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def visible(self, tokens: int) -> Tensor:
        """Positions (V,) int64 of the tokens seen, in a layer where this reference has `tokens` of them.

        A token is seen if it holds any latent of the mask.
        """
        if tokens not in self._places:
            height, width = layer_grid(tokens, *self.latents.shape[-2:])
            if self.mask is None:
                places = torch.arange(tokens)
            else:
                places = token_masks(self.mask[None].cpu(), height, width, dilation=1)[0].nonzero()[:, 0]
            self._places[tokens] = places.to(self.latents.device)
        return self._places[tokens]


def layer_grid(tokens: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the `tokens` of a layer, which are those of the latents or halved, rounded up, some times.

    ValueError if the layer's tokens are no such grid.
    """
    rows, columns = height, width
    while rows * columns > tokens:
        rows, columns = (rows + 1) // 2, (columns + 1) // 2
    if rows * columns != tokens:
        raise ValueError(f"a layer has {tokens} tokens, which latents of {height} x {width} do not halve to")
    return rows, columns


@dataclass(frozen=True)
class ReferenceFeatures:
    """What a batch of targets sees of its references, by the name of the attention processor.

    hidden: inputs of self-attention (B, R, C), R the most that a sample sees; visible: (B, R) bool, false where a
    sample sees fewer, or None where all see R.
    """

    hidden: dict[str, Tensor]
    visible: dict[str, Tensor | None]


def recorded_bytes(unet: UNet2DConditionModel, height: int, width: int) -> int:
    """Memory that what the layers record of one reference, latents of height x width, takes at every step."""
    last = len(unet.config.down_block_types) - 1
    total = 0
    for name in unet.attn_processors:
        if name.endswith(SELF_ATTENTION):
            block, place, *_ = name.split(".")
            level = {"down_blocks": int(place), "up_blocks": last - int(place)}[block] if place.isdigit() else last
            rows, columns = (math.ceil(side / 2**level) for side in (height, width))
            total += rows * columns * unet.get_submodule(name.removesuffix(".processor")).query_dim
    return total * unet.dtype.itemsize


class Exchange:
    """What the self-attention layers of one U-Net write and read during a forward pass."""

    def __init__(self) -> None:
        self.recorded: dict[str, Tensor] | None = None
        self.references: ReferenceFeatures | None = None
        self.blind = 0

    @contextmanager
    def recording(self) -> Iterator[dict[str, Tensor]]:
        """Inside, every layer's input (B, N, C) goes into the dictionary, by the name of its processor."""
        self.recorded = {}
        try:
            yield self.recorded
        finally:
            self.recorded = None

    @contextmanager
    def attending(self, references: ReferenceFeatures | None, blind: int = 0) -> Iterator[None]:
        """Inside, targets attend to `references` as well; a batch of several guidance branches, one after the other.

        The first `blind` samples of the batch attend to themselves alone.
        """
        self.references, self.blind = references, blind
        try:
            yield
        finally:
            self.references, self.blind = None, 0


class ReferenceProcessor(AttnProcessor2_0):
    """diffusers' self-attention, with the references' tokens behind a target's own."""

    def __init__(self, name: str, exchange: Exchange) -> None:
        super().__init__()
        self.name, self.exchange = name, exchange

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        if self.exchange.recorded is not None:
            self.exchange.recorded[self.name] = hidden_states
        references, blind = self.exchange.references, self.exchange.blind
        if references is None:
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        if not blind:
            return self._with_references(attn, hidden_states, references, temb)
        alone = super().__call__(attn, hidden_states[:blind], None, None, temb)
        return torch.cat([alone, self._with_references(attn, hidden_states[blind:], references, temb)])

    def _with_references(
        self, attn: Attention, hidden_states: Tensor, references: ReferenceFeatures, temb: Tensor | None
    ) -> Tensor:
        seen, visible = references.hidden[self.name], references.visible[self.name]
        batch, own, _ = hidden_states.shape
        branches = batch // len(seen)
        attention_mask = None
        keys = torch.cat([hidden_states, seen.to(hidden_states.dtype).repeat(branches, 1, 1)], dim=1)
        if visible is not None:
            bias = hidden_states.new_zeros(visible.shape).masked_fill(~visible, float("-inf"))
            attention_mask = torch.cat([bias.new_zeros(len(bias), own), bias], dim=1).repeat(branches, 1)[:, None]
        return super().__call__(attn, hidden_states, keys, attention_mask, temb)


def install(unet: UNet2DConditionModel) -> Exchange:
    """Give every self-attention layer of `unet` a ReferenceProcessor; returns what they share."""
    exchange = Exchange()
    unet.set_attn_processor(
        {
            name: ReferenceProcessor(name, exchange) if name.endswith(SELF_ATTENTION) else processor
            for name, processor in unet.attn_processors.items()
        }
    )
    return exchange


def gather(references: Sequence[Sequence[Reference]], recorded: Sequence[dict[str, Tensor]]) -> ReferenceFeatures:
    """What each sample's target sees, from what the layers recorded (N, C) of every reference in turn."""
    hidden, visible = {}, {}
    for name in recorded[0]:
        rows = iter(recorded)
        samples = []
        for own in references:
            parts = [features[name][one.visible(len(features[name]))] for one, features in zip(own, rows, strict=False)]
            samples.append(torch.cat(parts) if parts else recorded[0][name][:0])
        hidden[name], visible[name] = _padded(samples)
    return ReferenceFeatures(hidden, visible)


def _padded(samples: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Rows (n, C) of every sample as (B, R, C), zero behind the end, and where there are any, (B, R), or None."""
    counts = torch.tensor([len(own) for own in samples], device=samples[0].device)
    together = torch.nn.utils.rnn.pad_sequence(list(samples), batch_first=True)
    if int(counts.min()) == together.shape[1]:
        return together, None
    return together, torch.arange(together.shape[1], device=counts.device) < counts[:, None]
