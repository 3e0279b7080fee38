"""Customization with a U-Net (Ours-3B, Ours-1B): noised references in self-attention, IP-Adapter, velocity loss."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from configs.training import NoisedReferences
from models import latents, lora, recompute
from models.customizer import (
    CustomizeRequest,
    CustomizeSettings,
    Features,
    GuidanceTrace,
    TrainingBatch,
    generate_in_batches,
)
from models.guidance import DualGuidance, OnStep, Step
from models.masks import token_masks
from models.memory import check_references
from models.sizes import BLOCK_VALUES
from models.unet import adapter
from models.unet.ip_adapter import set_scale
from models.unet.model import TextEmbeddings, UNetModel
from models.unet.reference import Reference, ReferenceFeatures, gather, install, recorded_bytes
from models.unet.sampling import denoise, schedule


class UNetCustomizer(UNetModel):
    """A `Customizer` on any SD-1.5 or SDXL type of folder; it installs its own processors in self-attention.

    The image condition is one random reference through CLIP and the IP-Adapter. Where there is none, in training and in
    the guidance's u alike, its tokens are those of the IP-Adapter's own unconditional image, on which the published
    weights were trained and with which they are sampled. Tokens that are zero, which add nothing at all, are the
    model without IP-Adapter: for references on their way into self-attention, and where `references.image` is false.
    """

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self._exchange = install(self.unet)
        self._base_images: dict[str, Tensor] | None = None
        self.references = NoisedReferences()

    @property
    def references(self) -> NoisedReferences:
        """How references enter; assigning it sets the scale of the IP-Adapter."""
        return self._references

    @references.setter
    def references(self, form: NoisedReferences) -> None:
        self._references = form
        set_scale(self.unet, form.ip_adapter_scale)

    @property
    def needs_masks(self) -> bool:
        return self.references.needs_masks

    @property
    def network(self) -> nn.Module:
        return self.unet

    attention_layers = tuple(
        f"{layer}.{part}" for layer in ("attn1", "attn2") for part in ("to_q", "to_k", "to_v", "to_out.0")
    )

    def text_attention(self) -> dict[str, nn.Linear]:
        layers = self.unet.named_modules()
        return {name: layer for name, layer in layers if name.endswith(("attn2.to_k", "attn2.to_v"))}

    def add_adapter(self, rank: int, targets: Literal["self_attention"], seed: int) -> None:
        if targets != "self_attention":
            raise ValueError(f"lora_targets is {targets!r}; a U-Net allows self_attention")
        self._base_images = adapter.image_state(self.unet)
        adapter.add_adapter(self.unet, rank, seed)

    def adapter_parameters(self) -> dict[str, nn.Parameter]:
        return lora.trained_parameters(self.unet)

    def adapter_state(self) -> dict[str, Tensor]:
        return adapter.adapter_state(self.unet)

    def set_adapter_state(self, state: dict[str, Tensor]) -> None:
        adapter.set_adapter_state(self.unet, state)

    def adapter_file(self, metadata: dict[str, str]) -> bytes:
        return adapter.adapter_file(self.unet, self.resampler, metadata)

    def load_adapter(self, file: Path) -> dict[str, str]:
        self._base_images = adapter.image_state(self.unet)
        return adapter.load_adapter(self.unet, file)

    @contextmanager
    def without_adapter(self) -> Iterator[None]:
        """Inside, the model is the base model with its IP-Adapter as published; also when it has no adapter."""
        if self._base_images is None:
            yield
            return
        trained = adapter.image_state(self.unet)
        adapter.set_image_state(self.unet, self._base_images)
        try:
            with lora.lora_off(self.unet):
                yield
        finally:
            adapter.set_image_state(self.unet, trained)

    @torch.no_grad()
    def image_features(self, images: Sequence[np.ndarray], masks: Sequence[np.ndarray] | None = None) -> list[Features]:
        """Of uint8 (H, W, 3) images of one size, with their object masks bool (H, W) where references need them.

        {"latents": (C, h, w) clean, "clip": (T, D) tokens of the image encoder, "mask": (h, w) bool, latents that hold
        any of the object}. ValueError if masks are needed and missing.
        """
        clean = self.encode_images(np.stack(images)).cpu()
        appearance = self.encode_appearance(images).cpu()
        found = [{"latents": own, "clip": clip} for own, clip in zip(clean, appearance, strict=True)]
        if not self.needs_masks:
            return found
        if masks is None:
            raise ValueError("references come without object masks, which this model was trained with; give one each")
        grids = token_masks(torch.from_numpy(np.stack(masks)), *clean.shape[-2:], dilation=1)
        return [{**own, "mask": mask.view(clean.shape[-2:])} for own, mask in zip(found, grids, strict=True)]

    @torch.no_grad()
    def target_features(self, images: Sequence[np.ndarray]) -> list[Features]:
        """{"latents": (C, h, w) clean} of uint8 (H, W, 3) images of one size."""
        return [{"latents": own} for own in self.encode_images(np.stack(images)).cpu()]

    def text_features(self, prompts: Sequence[str]) -> list[Features]:
        """{"sequence": (T, C)} per prompt, with SDXL also "pooled": (P,); with gradients, as `encode_prompts`."""
        text = self.encode_prompts(prompts)
        parts = (
            {"sequence": text.sequence} if text.pooled is None else {"sequence": text.sequence, "pooled": text.pooled}
        )
        return [{name: part[row].cpu() for name, part in parts.items()} for row in range(len(prompts))]

    @cached_property
    def _no_text(self) -> TextEmbeddings:
        """The empty prompt, a batch of one."""
        with torch.no_grad():
            return self.encode_prompts([""])

    def _text(self, features: Sequence[Features]) -> TextEmbeddings:
        names = ("sequence", "pooled") if self.sdxl else ("sequence",)
        parts = [torch.stack([own[name] for own in features]).to(self.device, self.dtype) for name in names]
        return TextEmbeddings(parts[0], parts[1] if self.sdxl else None)

    @cached_property
    def _no_image(self) -> Features:
        # Equal bytes wherever it is first asked for, training's autocast included.
        with torch.autocast(self.device.type, enabled=False):
            return {"clip": self.encode_no_appearance()}

    @torch.no_grad()
    def image_tokens(self, chosen: Sequence[Features | None]) -> Tensor:
        """Tokens (B, Q, C) of one image per sample, of the unconditional image where there is none.

        All are zero if `references` keep images out.
        """
        if not self.references.image:
            return self._no_tokens(len(chosen))
        clip = [(own or self._no_image)["clip"].to(self.device, self.dtype) for own in chosen]
        return self.resampler(torch.stack(clip)).to(self.dtype)

    def _no_tokens(self, batch: int) -> Tensor:
        """Zero (B, Q, C): what the U-Net takes for no IP-Adapter."""
        shape = (batch, self.resampler.latents.shape[1], self.unet.config.cross_attention_dim)
        return torch.zeros(shape, device=self.device, dtype=self.dtype)

    def reference(self, features: Features) -> Reference:
        """An image of `image_features` as self-attention reads it, its mask grown as `references` says."""
        clean = features["latents"].to(self.device)
        if not self.needs_masks:
            return Reference(clean, None)
        mask = features["mask"]
        grown = token_masks(mask[None], *mask.shape, self.references.mask_dilation)
        return Reference(clean, grown.view(mask.shape))

    @torch.no_grad()
    def read(
        self,
        references: Sequence[Sequence[Reference]],
        noises: Sequence[Sequence[Tensor]],
        timesteps: Tensor,
    ) -> ReferenceFeatures | None:
        """What self-attention sees of the references of each sample, noised to its timestep.

        None if there are none, or if the form keeps them out of self-attention. `noises` (C, h, w) are of the
        references, `timesteps` (B,) of the samples. References of one size go through the base model together, without
        text or image tokens.
        """
        flat = [own for of_sample in references for own in of_sample]
        if not flat or not self.references.attention:
            return None
        drawn = [own.to(self.device) for of_sample in noises for own in of_sample]
        times = torch.cat([timesteps[row].expand(len(own)) for row, own in enumerate(references)])
        by_size: dict[torch.Size, list[int]] = {}
        for place, own in enumerate(flat):
            by_size.setdefault(own.latents.shape, []).append(place)
        recorded: list[dict[str, Tensor]] = [{} for _ in flat]
        for places in by_size.values():
            clean, noise = (
                torch.stack(part) for part in zip(*((flat[at].latents, drawn[at]) for at in places), strict=True)
            )
            noisy = self.levels.noisy(clean, noise, times[places])
            empty = self._no_tokens(len(places))
            with lora.lora_off(self.unet), self._exchange.recording() as seen:
                self.velocity(noisy, times[places], self._no_text.expand(len(places)), empty)
            for name, hidden in seen.items():
                for place, own in zip(places, hidden, strict=True):
                    recorded[place][name] = own
        return gather(references, recorded)

    def predict(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        text: TextEmbeddings,
        image_tokens: Tensor,
        references: ReferenceFeatures | None,
        blind: int = 0,
    ) -> Tensor:
        """The velocity (B, C, h, w) of noisy targets, of which the first `blind` see no reference.

        The others may be several guidance branches of the references' batch.
        """
        with self._exchange.attending(references, blind):
            return self.velocity(noisy, timesteps, text, image_tokens)

    def recompute_activations(self) -> None:
        # The backward pass comes when `predict` has left: its references are put back for the blocks it runs again.
        recompute.blocks(self.unet, lambda: self._exchange.attending(self._exchange.references))

    def losses(self, batch: TrainingBatch, generators: Sequence[torch.Generator]) -> Tensor:
        """Velocity loss per sample: mean |v - (alpha_t eps - sigma_t x)|^2 over the target, in float32.

        Timesteps are uniform; the global image is one of the references, each as likely. Targets are of one size. A
        bfloat16 model computes under autocast, with what is trained in float32.
        """
        clean = torch.stack([own["latents"] for own in batch.targets])
        noise = torch.stack([torch.randn(clean.shape[1:], generator=drawn) for drawn in generators])
        timesteps = torch.stack([torch.randint(len(self.levels), (), generator=drawn) for drawn in generators])
        chosen = [
            own[int(torch.randint(len(own), (), generator=drawn))] if own else None
            for own, drawn in zip(batch.references, generators, strict=True)
        ]
        noises = [
            [torch.randn(one["latents"].shape, generator=drawn) for one in own]
            for own, drawn in zip(batch.references, generators, strict=True)
        ]
        references = [[self.reference(one) for one in own] for own in batch.references]
        noisy = self.levels.noisy(clean, noise, timesteps)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            seen = self.read(references, noises, timesteps)
            predicted = self.predict(noisy, timesteps, self._text(batch.texts), self.image_tokens(chosen), seen)
        wanted = self.levels.velocity(clean, noise, timesteps).to(self.device)
        return (predicted.float() - wanted).square().mean(dim=(1, 2, 3))

    def generate_many(
        self,
        requests: Sequence[CustomizeRequest],
        settings: CustomizeSettings,
        trace: GuidanceTrace | None = None,
        on_step: OnStep | None = None,
    ) -> list[np.ndarray]:
        """uint8 (height, width, 3) for every request; those with and those without references as one batch each."""
        self.check_prompts([request.prompt for request in requests])

        def make(part: Sequence[CustomizeRequest], guidance: DualGuidance) -> np.ndarray:
            return latents.decode(self.vae, self.sample(part, settings, guidance))

        return generate_in_batches(requests, settings.guidance, make, trace, on_step)

    @torch.no_grad()
    def sample(
        self, requests: Sequence[CustomizeRequest], settings: CustomizeSettings, guidance: DualGuidance
    ) -> Tensor:
        """Clean latents (B, C, h, w) float32 of requests that all have references or all have none.

        Everything random of a request comes from its seed, in this order: its noise, the reference that is the global
        image, and at every step fresh noise for each reference. ValueError if image sides are not whole latents,
        MemoryLimitError if the references will not fit.
        """
        shape = (self.latent_channels, *self.latent_grid(settings.height, settings.width))
        generators = [torch.Generator().manual_seed(request.seed) for request in requests]
        noise = torch.stack([torch.randn(shape, generator=own) for own in generators]).to(self.device)
        text = self.encode_prompts([request.prompt for request in requests])
        empty, batch = self._no_text.expand(len(requests)), len(requests)
        features = self._features_of(requests)
        references = [[self.reference(one) for one in own] for own in features]
        self._check_memory(references, shape)
        chosen = [
            own[int(torch.randint(len(own), (), generator=drawn))] if own else None
            for own, drawn in zip(features, generators, strict=True)
        ]
        images = self.image_tokens(chosen).repeat(2, 1, 1)
        texts, blind = TextEmbeddings.joined([empty, text]), 0
        if any(features):
            texts, blind = TextEmbeddings.joined([empty, texts]), batch
            images = torch.cat([self.image_tokens([None] * batch), images])
        branches = blind // batch + 2

        def velocity(number: int, timestep: int, noisy: Tensor) -> Tensor:
            times = torch.full((batch,), timestep)
            level = float(self.levels.sigmas[timestep])
            step = Step(number, settings.steps, level, noisy, (float(self.levels.alphas[timestep]), -level))
            noises = [
                [torch.randn(one.latents.shape, generator=drawn) for one in own]
                for own, drawn in zip(references, generators, strict=True)
            ]
            seen = self.read(references, noises, times)
            together = noisy.repeat(branches, 1, 1, 1), times.repeat(branches)
            found = self.predict(*together, texts, images, seen, blind).float().chunk(branches)
            return guidance(step, *found) if blind else guidance.text_only(step, *found)

        return denoise(schedule(self.schedule, settings.steps), noise, velocity)

    def _check_memory(self, references: Sequence[Sequence[Reference]], shape: tuple[int, ...]) -> None:
        """MemoryLimitError if a reading of all references, what it records and a copy of that will not fit."""
        count = max(map(len, references))
        if not count or not self.references.attention:
            return
        channels = self.unet.config.block_out_channels[0] * BLOCK_VALUES * self.dtype.itemsize
        sizes = [one.latents.shape[-2:] for own in references for one in own]
        read = sum(2 * recorded_bytes(self.unet, *size) + math.prod(size) * channels for size in sizes)
        step = 3 * len(references) * math.prod(shape[-2:]) * channels
        check_references(count, read / count, step, self.device)

    def _features_of(self, requests: Sequence[CustomizeRequest]) -> list[list[Features]]:
        """Of the references of every request; an image that several share, the same array, is encoded once."""
        known: dict[tuple[int, int], Features] = {}
        found = []
        for request in requests:
            masks = request.masks or (None,) * len(request.references)
            own = []
            for image, mask in zip(request.references, masks, strict=True):
                name = (id(image), id(mask))
                if name not in known:
                    known[name] = self.image_features([image], None if mask is None else [mask])[0]
                own.append(known[name])
            found.append(own)
        return found
