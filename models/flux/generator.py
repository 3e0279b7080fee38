"""Consistent image sets with FLUX: masked shared attention, depth condition, warping and true CFG."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.flux.layout import pack
from models.flux.model import FluxModel, TextEmbeddings
from models.flux.object_attention import ObjectAttention, token_span
from models.flux.processor import SharedAttnProcessor
from models.flux.sampling import denoise, early_steps, schedule
from models.flux.sharing import SharedKeys, share_keys
from models.flux.warping import Warp, plan_warp
from models.generator import GenerateSettings, ImageSet, SetRequest
from models.latents import initial_noise
from models.masks import dilate, token_masks


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
        if settings.msa and request.size > 1 and request.masks is None and request.subject is None:
            raise ValueError(
                "masks is None; shared attention needs the object masks of the set, its subject, or msa false"
            )
        if request.subject is not None:
            if settings.msa and settings.msa_first_step == "masked":
                raise ValueError(
                    "msa_first_step is 'masked', but the masks of a subject are known after the first step only; "
                    "allowed: full"
                )
            for prompt in request.prompts:
                self._span(settings.told(prompt), request.subject)
        if settings.warp != "none" and request.size > 1 and request.correspondences is None:
            raise ValueError(f"correspondences is None; warp {settings.warp!r} needs them, or warp 'none'")
        for name, stack in (("depth", request.depth), ("masks", request.masks)):
            if stack is not None and stack.shape[1:] != (settings.height, settings.width):
                raise ValueError(
                    f"{name} is {stack.shape[1]} x {stack.shape[2]}; "
                    f"the settings allow {settings.height} x {settings.width}"
                )
        self.check_prompts([*map(settings.told, request.prompts), settings.negative_prompt])

    def generate(self, request: SetRequest, settings: GenerateSettings) -> ImageSet:
        """One set."""
        return self.generate_many([request], settings)[0]

    @torch.inference_mode()
    def generate_many(
        self,
        requests: Sequence[SetRequest],
        settings: GenerateSettings,
        texts: dict[str, TextEmbeddings] | None = None,
    ) -> list[ImageSet]:
        """Sets of any sizes, those of equal size denoised as one batch; results in the order of the requests.

        `texts`: what `encode_sets` gave for these and other sets; None: it is done here.
        """
        for request in requests:
            self.check(request, settings)
        texts = self.encode_sets(requests, settings) if texts is None else texts
        made: dict[int, ImageSet] = {}
        for kind in sorted({(request.size, request.subject is not None) for request in requests}):
            places = [
                place for place, request in enumerate(requests) if (request.size, request.subject is not None) == kind
            ]
            made |= zip(places, self._denoised([requests[place] for place in places], settings, texts), strict=True)
        return [made[place] for place in range(len(requests))]

    def _denoised(
        self, requests: Sequence[SetRequest], settings: GenerateSettings, texts: dict[str, TextEmbeddings]
    ) -> list[ImageSet]:
        """Sets of one size, all of them with a subject or none."""
        size = requests[0].size
        observed = self.observer(requests, settings)
        tokens = self.sample(requests, settings, observed, texts)
        found = [request.masks for request in requests] if observed is None else self._masks(observed, settings, size)
        return [
            ImageSet(self.decode(own, settings.height, settings.width, settings.vae_tiling), masks)
            for own, masks in zip(tokens.split(size), found, strict=True)
        ]

    def encode_sets(self, requests: Sequence[SetRequest], settings: GenerateSettings) -> dict[str, TextEmbeddings]:
        """Embeddings of all that these sets are told, each distinct prompt once."""
        prompts = [settings.told(prompt) for request in requests for prompt in request.prompts]
        return self.encode_each([*prompts, settings.negative_prompt] if settings.true_cfg_scale > 1 else prompts)

    def observer(self, requests: Sequence[SetRequest], settings: GenerateSettings) -> ObjectAttention | None:
        """What finds the masks of sets with a subject while they are sampled."""
        if requests[0].subject is None:
            return None
        spans = [
            self._span(settings.told(prompt), str(request.subject))
            for request in requests
            for prompt in request.prompts
        ]
        height, width = self.token_grid(settings.height, settings.width)
        return ObjectAttention(spans, self.tokenizer_2.model_max_length, height * width)

    def _span(self, prompt: str, subject: str) -> list[int]:
        with self.reading:
            return token_span(self.tokenizer_2, prompt, subject)

    def _masks(self, observed: ObjectAttention, settings: GenerateSettings, size: int) -> list[np.ndarray]:
        """(K, height, width) bool per set: every token of the last mask as a square of pixels."""
        grid = self.token_grid(settings.height, settings.width)
        tokens = observed.masks().cpu().numpy().reshape(-1, *grid)
        pixels = tokens.repeat(self.token_pixels, axis=1).repeat(self.token_pixels, axis=2)
        return [pixels[start : start + size] for start in range(0, len(pixels), size)]

    @torch.inference_mode()
    def sample(
        self,
        requests: Sequence[SetRequest],
        settings: GenerateSettings,
        observed: ObjectAttention | None = None,
        texts: dict[str, TextEmbeddings] | None = None,
    ) -> Tensor:
        """Clean latent tokens (sets * K, N, 4C) float32 of sets of one size K; `observed` if they have a subject."""
        texts = self.encode_sets(requests, settings) if texts is None else texts
        grid = self.token_grid(settings.height, settings.width)
        seeds = [seed for request in requests for seed in request.seeds]
        noise = pack(initial_noise(seeds, self.latent_channels, 2 * grid[0], 2 * grid[1])).to(self.device)
        scheduler = schedule(self.scheduler.config, settings.steps, grid[0] * grid[1])
        text = TextEmbeddings.joined(
            [texts[settings.told(prompt)] for request in requests for prompt in request.prompts]
        ).to(self.device)
        condition = self._condition(requests, settings)
        guided = settings.true_cfg_scale > 1
        both = text
        if guided:
            negative = texts[settings.negative_prompt].to(self.device)
            both = TextEmbeddings.joined([text] + [negative] * len(seeds))
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
                shared=shared(step == 0 and settings.msa_first_step == "full", copies, observed),
                observed=observed,
                warp=warp(copies) if settings.warp == "features" and step < warped_steps else None,
            ).float()
            if copies == 1:
                return predicted
            positive, negative = predicted.chunk(2)
            return negative + settings.true_cfg_scale * (positive - negative)

        def edit(step: int, latents: Tensor) -> Tensor:
            planned = warp(1) if settings.warp == "latents" and step < warped_steps else None
            return latents if planned is None else planned(latents)

        with self._at_work(self.transformer):
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
    ) -> Callable[[bool, int, ObjectAttention | None], SharedKeys | None]:
        """Plans by (every token of the others is visible, copies of the batch, where masks are observed); None where
        images are independent. Plans from the masks of the request are made once, observed ones at every step."""
        size = requests[0].size
        count = size * len(requests)

        def planned(visible_bn: Tensor, copies: int) -> SharedKeys:
            visible = visible_bn.to(self.device)
            return share_keys(visible, size, *grid, text_tokens, settings.rope, self.transformer.pos_embed, copies)

        @cache
        def from_request(full: bool, copies: int) -> SharedKeys:
            if full:
                return planned(torch.ones(count, grid[0] * grid[1], dtype=torch.bool), copies)
            masks = torch.from_numpy(np.concatenate([request.masks for request in requests]))
            return planned(token_masks(masks, *grid, settings.mask_dilation), copies)

        def plan(full: bool, copies: int, observed: ObjectAttention | None) -> SharedKeys | None:
            if not settings.msa or size == 1:
                return None
            if full or observed is None:
                return from_request(full, copies)
            return planned(dilate(observed.masks(), *grid, settings.mask_dilation), copies)

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
