"""Consistent image sets with FLUX: masked shared attention, depth condition, warping and true CFG."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.flux.layout import pack
from models.flux.model import FluxModel, TextEmbeddings
from models.flux.processor import SharedAttnProcessor
from models.flux.sampling import denoise, early_steps, initial_noise, schedule
from models.flux.sharing import SharedKeys, share_keys, token_masks
from models.flux.warping import Warp, plan_warp
from models.generator import GenerateSettings, SetRequest


class FluxGenerator(FluxModel):
    """An `ImageSetGenerator` on any FLUX folder; it installs its own attention processors in the transformer."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self.transformer.set_attn_processor(SharedAttnProcessor())

    def check(self, request: SetRequest, settings: GenerateSettings) -> None:
        """ValueError if the request does not fit the settings or this model."""
        self.token_grid(settings.height, settings.width)
        if request.depth is not None and not self.takes_depth:
            raise ValueError("depth is given, but this transformer has no channels for it; use a depth model")
        if settings.msa and request.size > 1 and request.masks is None:
            raise ValueError("masks is None; shared attention needs the object masks of the set, or msa false")
        if settings.warp != "none" and request.size > 1 and request.correspondences is None:
            raise ValueError(f"correspondences is None; warp {settings.warp!r} needs them, or warp 'none'")
        for name, stack in (("depth", request.depth), ("masks", request.masks)):
            if stack is not None and stack.shape[1:] != (settings.height, settings.width):
                raise ValueError(
                    f"{name} is {stack.shape[1]} x {stack.shape[2]}; "
                    f"the settings allow {settings.height} x {settings.width}"
                )
        self.check_prompts([*(prompt + settings.prompt_suffix for prompt in request.prompts), settings.negative_prompt])

    def generate(self, request: SetRequest, settings: GenerateSettings) -> np.ndarray:
        """One set: uint8 (K, height, width, 3) RGB."""
        return self.generate_many([request], settings)[0]

    @torch.inference_mode()
    def generate_many(self, requests: Sequence[SetRequest], settings: GenerateSettings) -> list[np.ndarray]:
        """Sets of any sizes, those of equal size denoised as one batch; results in the order of the requests."""
        for request in requests:
            self.check(request, settings)
        images: dict[int, np.ndarray] = {}
        for size in sorted({request.size for request in requests}):
            places = [place for place, request in enumerate(requests) if request.size == size]
            tokens = self.sample([requests[place] for place in places], settings)
            for place, own in zip(places, tokens.split(size), strict=True):
                images[place] = self.decode(own, settings.height, settings.width)
        return [images[place] for place in range(len(requests))]

    @torch.inference_mode()
    def sample(self, requests: Sequence[SetRequest], settings: GenerateSettings) -> Tensor:
        """Clean latent tokens (sets * K, N, 4C) float32 of sets of one size K."""
        grid = self.token_grid(settings.height, settings.width)
        seeds = [seed for request in requests for seed in request.seeds]
        noise = pack(initial_noise(seeds, self.latent_channels, 2 * grid[0], 2 * grid[1])).to(self.device)
        scheduler = schedule(self.scheduler.config, settings.steps, grid[0] * grid[1])
        text = self.encode_prompts([prompt + settings.prompt_suffix for r in requests for prompt in r.prompts])
        condition = self._condition(requests, settings)
        guided = settings.true_cfg_scale > 1
        both = _with_negative(text, self.encode_prompts([settings.negative_prompt])) if guided else text
        shared = self._sharing(requests, settings, grid, text.sequence.shape[1])
        warp = self._warping(requests, grid)
        warped_steps = 0 if settings.warp == "none" else early_steps(settings.steps, settings.warp_share)

        def velocity(step: int, sigma: float, latents: Tensor) -> Tensor:
            copies = 2 if guided and step >= settings.cfg_start_step else 1
            predicted = self.velocity(
                latents.repeat(copies, 1, 1),
                None if condition is None else condition.repeat(copies, 1, 1),
                both if copies == 2 else text,
                sigma,
                settings.guidance_scale,
                grid,
                shared=shared(step == 0 and settings.msa_first_step == "full", copies),
                warp=warp(copies) if settings.warp == "features" and step < warped_steps else None,
            ).float()
            if copies == 1:
                return predicted
            positive, negative = predicted.chunk(2)
            return negative + settings.true_cfg_scale * (positive - negative)

        def edit(step: int, latents: Tensor) -> Tensor:
            planned = warp(1) if settings.warp == "latents" and step < warped_steps else None
            return latents if planned is None else planned(latents)

        return denoise(scheduler, noise, velocity, edit)

    def _condition(self, requests: Sequence[SetRequest], settings: GenerateSettings) -> Tensor | None:
        """Depth tokens (sets * K, N, 4C); without depth the blank condition, a black image, as in training."""
        if not self.takes_depth:
            return None
        depths = [
            np.zeros((request.size, settings.height, settings.width), np.float32)
            if request.depth is None
            else request.depth
            for request in requests
        ]
        return self.encode_depth(np.concatenate(depths))

    def _sharing(
        self, requests: Sequence[SetRequest], settings: GenerateSettings, grid: tuple[int, int], text_tokens: int
    ) -> Callable[[bool, int], SharedKeys | None]:
        """Plans by (every token of the others is visible, copies of the batch); None where images are independent."""

        @cache
        def plan(full: bool, copies: int) -> SharedKeys | None:
            size = requests[0].size
            if not settings.msa or size == 1:
                return None
            masks = torch.from_numpy(np.concatenate([request.masks for request in requests]))
            visible = torch.ones_like(masks) if full else masks
            visible = token_masks(visible, *grid, settings.mask_dilation).to(self.device)
            pos_embed = self.transformer.pos_embed
            return share_keys(visible, size, *grid, text_tokens, settings.rope, pos_embed, copies)

        return plan

    def _warping(self, requests: Sequence[SetRequest], grid: tuple[int, int]) -> Callable[[int], Warp | None]:
        """Plans by copies of the batch; None for single images, which have no source."""

        @cache
        def plan(copies: int) -> Warp | None:
            size = requests[0].size
            if size == 1:
                return None
            return plan_warp([request.correspondences for request in requests], size, *grid, self.device, copies)

        return plan


def _with_negative(text: TextEmbeddings, negative: TextEmbeddings) -> TextEmbeddings:
    """The batch of prompts followed by as many copies of the one negative prompt."""
    count = len(text.pooled)
    return TextEmbeddings(
        sequence=torch.cat([text.sequence, negative.sequence.expand(count, -1, -1)]),
        pooled=torch.cat([text.pooled, negative.pooled.expand(count, -1)]),
    )
