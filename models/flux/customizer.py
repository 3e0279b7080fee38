"""Customization with FLUX (Ours-12B): reference images in attention, LoRA, flow loss, dual guidance."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from models import lora, recompute
from models.customizer import (
    CustomizeRequest,
    CustomizeSettings,
    Features,
    GuidanceTrace,
    TrainingBatch,
    generate_in_batches,
)
from models.flux.joint import JointReferences, join
from models.flux.layout import image_ids, pack, text_ids
from models.flux.model import FluxModel, TextEmbeddings
from models.flux.reference import (
    Reference,
    ReferenceKeys,
    install,
    kept_bytes,
    layer_bytes,
    reference_keys,
)
from models.flux.sampling import denoise, schedule, training_sigmas
from models.guidance import DualGuidance, OnStep, Step
from models.latents import initial_noise
from models.memory import check_references
from models.sizes import BLOCK_VALUES

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
FEEDFORWARD = ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2")
TARGETS = {"attention": ATTENTION, "attention_feedforward": ATTENTION + FEEDFORWARD}
"""Layers that get a LoRA."""
TRAINING_GUIDANCE = 1.0
"""Embedded guidance while training, as in the authors' release; and of references at any time, so that it is one."""


Prepared = ReferenceKeys | JointReferences


class FluxCustomizer(FluxModel):
    """A `Customizer` on any FLUX folder; it installs its own attention processors in the transformer.

    `references` is the form they enter in: "separate" (default) or the release's "joint".
    A depth-conditioned transformer gets the blank condition, an encoded black image, for target and references alike.
    """

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        install(self.transformer)
        self.references: Literal["separate", "joint"] = "separate"
        self.lockstep = False
        """Call the transformer as often for every batch, which a base that is shared out among processes demands."""
        self._blank: dict[tuple[int, int], Tensor] = {}

    @property
    def network(self) -> nn.Module:
        return self.transformer

    @property
    def tokenizers(self) -> tuple[PreTrainedTokenizerBase, ...]:
        return self.tokenizer, self.tokenizer_2

    @property
    def text_encoders(self) -> tuple[PreTrainedModel, ...]:
        return self.text_encoder, self.text_encoder_2

    attention_layers = ATTENTION

    def text_attention(self) -> dict[str, nn.Linear]:
        """None: text and image tokens attend to each other in one sequence."""
        return {}

    def add_adapter(self, rank: int, targets: Literal["attention", "attention_feedforward"], seed: int) -> None:
        lora.add_lora(self.transformer, rank, TARGETS[targets], seed)

    def adapter_parameters(self) -> dict[str, nn.Parameter]:
        return lora.trained_parameters(self.transformer)

    def adapter_state(self) -> dict[str, Tensor]:
        return lora.lora_state(self.transformer)

    def set_adapter_state(self, state: dict[str, Tensor]) -> None:
        lora.set_lora_state(self.transformer, state)

    def adapter_file(self, metadata: dict[str, str]) -> bytes:
        return lora.lora_file(self.transformer, "transformer", metadata)

    def load_adapter(self, file: Path) -> dict[str, str]:
        return lora.load_lora(self.transformer, "transformer", file)

    @contextmanager
    def without_adapter(self) -> Iterator[None]:
        """Inside, the model is the base model; also when it has no adapter."""
        with lora.lora_off(self.transformer):
            yield

    needs_masks = False
    """Targets attend to whole references (thesis C.1.2)."""

    @torch.no_grad()
    def image_features(self, images: Sequence[np.ndarray], masks: Sequence[np.ndarray] | None = None) -> list[Features]:
        """{"tokens": (N, 4C) clean, "grid": (2,) rows and columns} per uint8 (H, W, 3) image, all of one size."""
        tokens = self.encode_images(np.stack(images)).cpu()
        grid = torch.tensor(self.token_grid(*images[0].shape[:2]))
        return [{"tokens": own, "grid": grid} for own in tokens]

    def target_features(self, images: Sequence[np.ndarray]) -> list[Features]:
        """The same as of references."""
        return self.image_features(images)

    @torch.no_grad()
    def text_features(self, prompts: Sequence[str]) -> list[Features]:
        """{"sequence": (T, C), "pooled": (P,)} per prompt."""
        text = self.encode_prompts(prompts)
        pairs = zip(text.sequence.cpu(), text.pooled.cpu(), strict=True)
        return [{"sequence": sequence, "pooled": pooled} for sequence, pooled in pairs]

    @cached_property
    def _no_text(self) -> TextEmbeddings:
        """The empty prompt, a batch of one."""
        return self.encode_prompts([""])

    def _text(self, features: Sequence[Features]) -> TextEmbeddings:
        sequence, pooled = (torch.stack([own[name] for own in features]) for name in ("sequence", "pooled"))
        return TextEmbeddings(sequence.to(self.device, self.dtype), pooled.to(self.device, self.dtype))

    def prepare(self, references: Sequence[Sequence[Features]], grid: tuple[int, int]) -> Prepared | None:
        """What the targets of a batch, of `grid` tokens, see of their references; None if there are none at all.

        In the separate form it holds for every step and every guidance branch.
        """
        clean = [[self._reference(own) for own in of_sample] for of_sample in references]
        if self.references == "joint":
            return join(clean, grid) if any(clean) else None
        if self.lockstep:
            _check_one_size(clean)
        if any(clean):
            return self._keys(clean, grid)
        return self._unseen(len(clean), grid) if self.lockstep else None

    def _keys(self, references: Sequence[Sequence[Reference]], grid: tuple[int, int]) -> ReferenceKeys:
        guidance = TRAINING_GUIDANCE if self.transformer.config.guidance_embeds else None
        return reference_keys(self.transformer, references, grid[0], self._no_text.pooled, guidance)

    def _unseen(self, batch: int, grid: tuple[int, int]) -> ReferenceKeys:
        """Of a blank reference that no target sees."""
        tokens = torch.zeros(1, grid[0] * grid[1], 4 * self.latent_channels)
        blank = Reference(self._conditioned(tokens, grid)[0], *grid)
        keys = self._keys([[blank]], grid).select(torch.zeros(batch, dtype=torch.int64, device=self.device))
        return replace(keys, visible=torch.zeros(batch, len(blank.tokens), dtype=torch.bool, device=self.device))

    def predict(
        self,
        tokens_bnc: Tensor,
        sigma_b: Tensor,
        text: TextEmbeddings,
        references: Prepared | None,
        grid: tuple[int, int],
        guidance_scale: float,
    ) -> Tensor:
        """The transformer's prediction of noise minus data (B, N, 4C) for noisy target tokens at `sigma_b` (B,)."""
        batch, count, _ = tokens_bnc.shape
        hidden = self._conditioned(tokens_bnc, grid)
        ids = image_ids(*grid, device=self.device)
        text_tokens = text.sequence.shape[1]
        attention: dict[str, Any] = {"text_tokens": text_tokens}
        if isinstance(references, JointReferences):
            hidden = torch.cat([hidden, references.tokens], dim=1)
            ids = torch.cat([ids, references.ids])
            if references.visible is not None:
                own = references.visible.new_ones(batch, text_tokens + count)
                attention["attention_mask"] = torch.cat([own, references.visible], dim=1)[:, None, None, :]
        else:
            attention["references"] = references
        guidance = None
        if self.transformer.config.guidance_embeds:
            guidance = torch.full((batch,), guidance_scale, device=self.device)
        return self.transformer(
            hidden_states=hidden,
            encoder_hidden_states=text.sequence,
            pooled_projections=text.pooled,
            timestep=sigma_b.to(self.device),
            guidance=guidance,
            img_ids=ids,
            txt_ids=text_ids(text_tokens, device=self.device),
            joint_attention_kwargs=attention,
            return_dict=False,
        )[0][:, :count]

    def _reference(self, features: Features) -> Reference:
        height, width = (int(side) for side in features["grid"])
        tokens = self._conditioned(features["tokens"][None], (height, width))[0]
        return Reference(tokens, height, width)

    def _conditioned(self, tokens_bnc: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens as the transformer takes them: with the blank depth condition on channels if it has any."""
        tokens_bnc = tokens_bnc.to(self.device, self.dtype)
        if not self.takes_depth:
            return tokens_bnc
        if grid not in self._blank:
            black = np.zeros((1, grid[0] * self.token_pixels, grid[1] * self.token_pixels), np.float32)
            self._blank[grid] = self.encode_depth(black).to(self.dtype)
        return torch.cat([tokens_bnc, self._blank[grid].expand(len(tokens_bnc), -1, -1)], dim=-1)

    def recompute_activations(self) -> None:
        recompute.blocks(self.transformer)

    def losses(self, batch: TrainingBatch, generators: Sequence[torch.Generator]) -> Tensor:
        """Flow loss of thesis Eq. 5.3 per sample: mean |v - (eps - x)|^2 over the target's tokens, in float32.

        Noise levels are logit-normal, shifted in time as the base model's scheduler does. Targets are of one size. A
        bfloat16 model computes under autocast, with its adapter in float32.
        """
        grid = tuple(int(side) for side in batch.targets[0]["grid"])
        clean = torch.stack([own["tokens"] for own in batch.targets])
        noise = torch.stack([torch.randn(clean.shape[1:], generator=own) for own in generators])
        sigma = training_sigmas(self.scheduler.config, clean.shape[1], generators)
        noisy = torch.lerp(clean, noise, sigma[:, None, None])
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            references = self.prepare(batch.references, grid)
            predicted = self.predict(noisy, sigma, self._text(batch.texts), references, grid, TRAINING_GUIDANCE)
        wanted = (noise - clean).to(self.device)
        return (predicted.float() - wanted).square().mean(dim=(1, 2))

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
            return self.decode(self.sample(part, settings, guidance), settings.height, settings.width)

        return generate_in_batches(requests, settings.guidance, make, trace, on_step)

    @torch.no_grad()
    def sample(
        self, requests: Sequence[CustomizeRequest], settings: CustomizeSettings, guidance: DualGuidance
    ) -> Tensor:
        """Clean latent tokens (B, N, 4C) float32 of requests that all have references or all have none.

        ValueError if image sides are not whole tokens, MemoryLimitError if the references will not fit. Keys and values
        of references are computed once; images of a request are recognised as those of another one by being the same
        arrays. In the separate form the three branches of guidance are one batch.
        """
        grid = self.token_grid(settings.height, settings.width)
        noise = initial_noise([request.seed for request in requests], self.latent_channels, 2 * grid[0], 2 * grid[1])
        scheduler = schedule(self.scheduler.config, settings.steps, grid[0] * grid[1])
        batch = len(requests)
        self._check_memory(requests, grid)
        blank, text = self._no_text, self.encode_prompts([request.prompt for request in requests])
        empty = TextEmbeddings(blank.sequence.expand(batch, -1, -1), blank.pooled.expand(batch, -1))
        both = TextEmbeddings.joined([empty, text])
        references = self._references_of(requests, grid)

        def predict(sigma: float, tokens: Tensor, text: TextEmbeddings, references: Prepared | None) -> Tensor:
            levels = torch.full((len(tokens),), sigma)
            return self.predict(tokens, levels, text, references, grid, settings.guidance_scale).float()

        def velocity(number: int, sigma: float, tokens: Tensor) -> Tensor:
            step = Step(number, settings.steps, sigma, tokens, (1.0, -sigma))
            if references is None:
                return guidance.text_only(step, *predict(sigma, tokens.repeat(2, 1, 1), both, None).chunk(2))
            if isinstance(references, ReferenceKeys):
                # One batch without a mask: in attention the samples that see no references are a call of their own.
                every = TextEmbeddings.joined([empty, both])
                return guidance(step, *predict(sigma, tokens.repeat(3, 1, 1), every, references).chunk(3))
            without_both = predict(sigma, tokens, empty, None)
            return guidance(step, without_both, *predict(sigma, tokens.repeat(2, 1, 1), both, references).chunk(2))

        return denoise(scheduler, pack(noise).to(self.device), velocity)

    def _references_of(self, requests: Sequence[CustomizeRequest], grid: tuple[int, int]) -> Prepared | None:
        """References of the batch twice over, for the branches without and with text; each distinct group read once."""
        groups, rows = _groups(requests)
        known: dict[int, Features] = {}
        for image in (image for images in groups for image in images):
            if id(image) not in known:
                known[id(image)] = self.image_features([image])[0]
        prepared = self.prepare([[known[id(image)] for image in images] for images in groups], grid)
        return None if prepared is None else prepared.select(torch.tensor(rows * 2, device=self.device))

    def _check_memory(self, requests: Sequence[CustomizeRequest], grid: tuple[int, int]) -> None:
        """MemoryLimitError if the kept keys and values, one reading of the references or one step will not fit; of
        joint references, their tokens in a step."""
        groups, rows = _groups(requests)
        sizes = [[math.prod(self.token_grid(*image.shape[:2])) for image in images] for images in groups]
        count = max(map(len, sizes))
        if not count:
            return
        longest = max(map(sum, sizes))
        channels = self.transformer.config.num_attention_heads * self.transformer.config.attention_head_dim
        token = channels * BLOCK_VALUES * self.dtype.itemsize
        own = math.prod(grid) + self.tokenizer_2.model_max_length
        branches = 2 * len(rows)
        reading = sum(map(sum, sizes)) * token
        attending = layer_bytes(self.transformer, branches * longest)
        kept = kept_bytes(self.transformer, len(groups) * longest)
        held = branches * longest * token + attending if self.references == "joint" else kept + max(reading, attending)
        step = 3 * len(rows) * own * token + layer_bytes(self.transformer, branches * own)
        check_references(count, held / count, step, self.device)


def _groups(requests: Sequence[CustomizeRequest]) -> tuple[list[tuple[np.ndarray, ...]], list[int]]:
    """The distinct groups of references, the same arrays in the same order, and the group of every request."""
    names = [tuple(id(image) for image in request.references) for request in requests]
    groups = dict(zip(names, (request.references for request in requests), strict=True))
    order = {name: row for row, name in enumerate(groups)}
    return list(groups.values()), [order[name] for name in names]


def _check_one_size(references: list[list[Reference]]) -> None:
    sizes = sorted({(own.height, own.width) for of_sample in references for own in of_sample})
    if len(sizes) > 1:
        named = ", ".join(f"{height} x {width}" for height, width in sizes)
        raise ValueError(
            f"references of a batch have {named} tokens; with train.parallel fsdp they need one size, with ddp not"
        )
