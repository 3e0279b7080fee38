"""The generator: FLUX transformer and its text encoders trained together, with and without depth in one net.

Large text-to-image models have seen collages and series of pictures of one thing; that is what shared attention calls
on. This net would never see two pictures at once, so in some steps the views of an object are trained together and see
one another under the masks of shared attention. Without such steps, an object seen in another picture counts as drawn
and vanishes from this one.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxControlPipeline, FluxTransformer2DModel
from torch import Tensor, nn
from transformers import CLIPTextModel, T5Config, T5EncoderModel

from models.flux.dense import DenseAttnProcessor
from models.flux.layout import image_ids, pack, text_ids
from models.flux.processor import SharedAttnProcessor
from models.masks import dilate
from models.miniature.dataset import Views
from models.miniature.tokenizers import LENGTH, SPECIAL, build_clip_text_encoder, build_tokenizer, vocabulary_size
from models.miniature.training import vae as autoencoder
from models.miniature.training.captions import BLURRED, draw_caption
from models.miniature.training.common import Cost, Draws, fit
from models.miniature.training.degrade import blur, downsample

BATCH = 32
LEARNING_RATE = 1e-3
MAX_VIEWS = 24_000
DROP_TEXT = 0.1
DROP_DEPTH = 0.5
SET_SHARE = 0.25
"""Share of the steps that train all views of an object together."""
SEEN = 0.75
"""Chance of each of these views to be seen by the others."""
WHOLLY_SEEN = 0.2
"""Chance of a set to see whole images at any noise level; as in sampling, above `FIRST_SIGMA` all do."""
FIRST_SIGMA = 0.9
STACKED_SHARE = 0.25
"""Share of such steps in the plain stacked form of RoPE."""
DILATION = 3
COMPILED_FROM = 1_000
"""Steps from which compiling the transformer, which takes minutes and makes a step a fifth shorter, pays off."""
DEGRADED_SHARE = 0.04
DEGRADED_POOL = 1_000
OBJECT_WEIGHT = 1.0
"""Added loss weight of tokens on the object. It depends on the place alone, so the optimum stays the velocity."""
T5_WIDTH = 128
POOLED_WIDTH = 128
TIME_SHIFT = 1.5


@dataclass(frozen=True)
class Latents:
    """Tokens of the training views, encoded once; the degraded pool comes behind the N views."""

    images: Tensor
    """(N + D, 64, 64) float16, mean 0 and deviation 1."""
    depths: Tensor
    """(N, 64, 64) float16 condition tokens."""
    blank: Tensor
    """(64, 64) condition without depth: a black image."""
    weights: Tensor
    """(N, 64) float32 loss weight per token."""
    degraded: np.ndarray
    """(D,) the view each degraded image was made of."""


def build_transformer() -> FluxTransformer2DModel:
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=128,
        out_channels=64,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=32,
        num_attention_heads=6,
        joint_attention_dim=T5_WIDTH,
        pooled_projection_dim=POOLED_WIDTH,
        guidance_embeds=False,
        axes_dims_rope=(8, 12, 12),
    )


def build_text_encoder() -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=vocabulary_size(),
            d_model=T5_WIDTH,
            d_kv=32,
            d_ff=2 * T5_WIDTH,
            num_layers=2,
            num_heads=4,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            is_encoder_decoder=False,
            use_cache=False,
            pad_token_id=SPECIAL.index("<pad>"),
            eos_token_id=SPECIAL.index("<end>"),
        )
    )


def build_pooled_encoder() -> CLIPTextModel:
    return build_clip_text_encoder(POOLED_WIDTH, 2 * POOLED_WIDTH, layers=1)


def build() -> nn.ModuleDict:
    """`transformer`, `text` (T5) and `pooled` (CLIP's text model)."""
    return nn.ModuleDict(
        {"transformer": build_transformer(), "text": build_text_encoder(), "pooled": build_pooled_encoder()}
    )


def encode_views(vae: AutoencoderKL, views: Views, seed: int) -> Latents:
    rng = np.random.default_rng(seed)
    count = min(len(views), MAX_VIEWS)
    degraded = rng.permutation(count)[:DEGRADED_POOL]
    worse = [
        (blur if rng.random() < 0.5 else downsample)(views.images[row], rng.uniform(0.35, 0.9), rng) for row in degraded
    ]
    images = _tokens(vae, np.concatenate([views.images[:count], np.stack(worse)]))
    depths = _tokens(vae, views.depths[:count])
    blank = _tokens(vae, np.zeros_like(views.depths[:1]))[0]
    masks = torch.from_numpy(views.masks[:count]).float()[:, None]
    cover = torch.nn.functional.avg_pool2d(masks, 8).flatten(1)
    return Latents(images, depths, blank, 1 + OBJECT_WEIGHT * cover, degraded)


def _tokens(vae: AutoencoderKL, images: np.ndarray) -> Tensor:
    latents = autoencoder.encode(vae, images)
    return pack((latents - vae.config.shift_factor) * vae.config.scaling_factor).half()


def train(views: Views, latents: Latents, steps: int, seed: int, work_dir: Path) -> tuple[nn.ModuleDict, Cost]:
    """Velocity `noise - data` at logit-normal noise levels, shifted in time as in sampling; gives `build()`'s nets."""
    torch.manual_seed(seed)
    nets = build()
    transformer, text, pooled = nets["transformer"], nets["text"], nets["pooled"]
    if steps >= COMPILED_FROM:
        transformer.compile(dynamic=False)
    clip_tokenizer, t5_tokenizer = build_tokenizer(start=True), build_tokenizer(start=False)
    count = len(latents.depths)
    batch, set_size = min(BATCH, count), int(np.bincount(views.objects[:count]).min())
    specs = views.specs()
    positions, text_positions = image_ids(8, 8), text_ids(LENGTH)

    def ids_of(tokenizer: object, captions: list[str]) -> Tensor:
        return tokenizer(
            captions, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
        ).input_ids

    def loss_of(draws: Draws) -> Tensor:
        words, noises = draws.words, draws.noise
        together = words.random() < SET_SHARE
        if together:
            rows = draws.rows(count // set_size, batch // set_size)[:, None] * set_size + np.arange(set_size)
            rows = rows.flatten()
        else:
            rows = draws.rows(count, batch).copy()
        alike = set_size if together else 1  # so many rows share their noise level, and all have depth or none
        sources = rows.copy()
        captions = []
        for place, row in enumerate(rows):
            worse = not together and words.random() < DEGRADED_SHARE
            if worse:
                pick = words.randrange(len(latents.degraded))
                row = latents.degraded[pick]
                rows[place], sources[place] = row, count + pick
            caption = draw_caption(specs[views.objects[row]], views.scenes[row], views.other(row), words)
            if worse:
                caption = BLURRED if words.random() < 0.5 else f"{caption}, {BLURRED}"
            captions.append("" if words.random() < DROP_TEXT else caption)
        clean = latents.images[sources].float()
        depth = latents.depths[rows].float()
        without = torch.rand(len(rows) // alike, generator=noises) < DROP_DEPTH
        depth[without.repeat_interleave(alike)] = latents.blank.float()
        noise = torch.randn(clean.shape, generator=noises)
        sigma = torch.randn(len(rows) // alike, generator=noises).sigmoid().repeat_interleave(alike)
        sigma = TIME_SHIFT * sigma / (1 + (TIME_SHIFT - 1) * sigma)
        weights = latents.weights[rows]
        if together:
            visible = _visible(weights > 1, sigma, set_size, noises)
            rope: Literal["release", "stacked"] = "stacked" if words.random() < STACKED_SHARE else "release"
            transformer.set_attn_processor(
                DenseAttnProcessor(visible, set_size, 8, 8, LENGTH, rope, transformer.pos_embed, torch.bfloat16)
            )
        else:
            transformer.set_attn_processor(SharedAttnProcessor())
        noisy = torch.lerp(clean, noise, sigma[:, None, None])
        velocity = transformer(
            hidden_states=torch.cat([noisy, depth], dim=-1),
            encoder_hidden_states=text(ids_of(t5_tokenizer, captions))[0],
            pooled_projections=pooled(ids_of(clip_tokenizer, captions)).pooler_output,
            timestep=sigma,
            img_ids=positions,
            txt_ids=text_positions,
            return_dict=False,
        )[0]
        error = (velocity.float() - (noise - clean)).square().mean(dim=-1)
        return (weights * error).sum() / weights.sum()

    cost = fit("flux", nets, steps, LEARNING_RATE, batch, loss_of, work_dir, seed)
    transformer.set_attn_processor(SharedAttnProcessor())
    return nets, cost


def _visible(objects_bn: Tensor, sigma_b: Tensor, set_size: int, generator: torch.Generator) -> Tensor:
    """(B, N) bool: the tokens of each view that the other views of its set see."""
    sets = len(objects_bn) // set_size
    wholly = torch.rand(sets, generator=generator).repeat_interleave(set_size) < WHOLLY_SEEN
    wholly |= sigma_b > FIRST_SIGMA
    seen = torch.rand(len(objects_bn), generator=generator) < SEEN
    return seen[:, None] & (wholly[:, None] | dilate(objects_bn, 8, 8, DILATION))


def save(vae: AutoencoderKL, nets: nn.ModuleDict, folder: Path) -> None:
    """A FluxControlPipeline folder in float16."""
    pipeline = FluxControlPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=TIME_SHIFT, use_dynamic_shifting=False),
        vae=vae,
        text_encoder=nets["pooled"],
        tokenizer=build_tokenizer(start=True),
        text_encoder_2=nets["text"],
        tokenizer_2=build_tokenizer(start=False),
        transformer=nets["transformer"],
    )
    pipeline.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    pipeline.to(torch.float32)
