"""The parts of a FLUX model in a standard diffusers folder, and what any use of them needs: encode, predict, decode."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any, Literal, Self

import numpy as np
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPTextModel, PreTrainedTokenizerBase, T5EncoderModel

from models import latents
from models.flux.layout import image_ids, pack, text_ids, unpack

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LONGEST_PROMPT = 4096
TILE_LATENTS = 64
"""Side of a tile of a tiled decoding, in latents: 512 pixels of FLUX."""


@dataclass(frozen=True)
class TextEmbeddings:
    sequence: Tensor
    """(B, T, C) from T5."""
    pooled: Tensor
    """(B, P) from CLIP."""

    def to(self, device: torch.device | str) -> "TextEmbeddings":
        return TextEmbeddings(self.sequence.to(device), self.pooled.to(device))

    @classmethod
    def joined(cls, parts: Sequence["TextEmbeddings"]) -> "TextEmbeddings":
        """One batch of all parts."""
        return cls(torch.cat([part.sequence for part in parts]), torch.cat([part.pooled for part in parts]))


class FluxModel:
    """A loaded FLUX model. Weights are used as they are: their device and dtype are the model's.

    A transformer with twice as many input channels as a packed latent token is depth-conditioned (FLUX.1-Depth).
    Raises ValueError if transformer and VAE do not fit together.
    """

    def __init__(
        self,
        transformer: FluxTransformer2DModel,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        text_encoder_2: T5EncoderModel,
        tokenizer: PreTrainedTokenizerBase,
        tokenizer_2: PreTrainedTokenizerBase,
        scheduler: FlowMatchEulerDiscreteScheduler,
    ) -> None:
        self.transformer = transformer
        self.vae = vae
        self.text_encoder = text_encoder
        self.text_encoder_2 = text_encoder_2
        self.tokenizer = tokenizer
        self.tokenizer_2 = tokenizer_2
        self.scheduler = scheduler
        for part in (transformer, vae, text_encoder, text_encoder_2):
            part.requires_grad_(False).eval()
        self.device: torch.device = transformer.device
        self._visiting: tuple[nn.Module, ...] = ()
        self._working = RLock()
        self.reading = RLock()
        """Held around every use of a tokenizer: its padding and truncation are state that threads would share."""
        self.latent_channels: int = vae.config.latent_channels
        self.token_pixels: int = 2 * 2 ** (len(vae.config.block_out_channels) - 1)
        # diffusers' own tiles are as large as the images FLUX was trained on, which saves nothing.
        vae.tile_latent_min_size, vae.tile_sample_min_size = TILE_LATENTS, TILE_LATENTS * self.token_pixels // 2
        token_channels = 4 * self.latent_channels
        wide = transformer.config.in_channels
        if wide not in (token_channels, 2 * token_channels):
            raise ValueError(
                f"transformer.in_channels is {wide}; this VAE allows {token_channels}, with depth {2 * token_channels}"
            )
        if transformer.out_channels != token_channels:
            raise ValueError(f"transformer.out_channels is {transformer.out_channels}; allowed: {token_channels}")
        self.takes_depth: bool = wide == 2 * token_channels
        for name, part in (("tokenizer", tokenizer), ("tokenizer_2", tokenizer_2)):
            if not 1 <= part.model_max_length <= LONGEST_PROMPT:
                raise ValueError(
                    f"{name}.model_max_length is {part.model_max_length}; allowed: 1 to {LONGEST_PROMPT}, "
                    "set it in tokenizer_config.json"
                )

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype | str = torch.float32
    ) -> Self:
        """Load a folder with transformer, vae, text_encoder(_2), tokenizer(_2), scheduler in `dtype` on `device`."""
        kind = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
        if kind not in DTYPES.values():
            raise ValueError(f"dtype is {dtype!r}; allowed: {', '.join(DTYPES)}")
        root = Path(folder)
        safe = {"use_safetensors": True}  # where those are missing, the libraries would read pickles
        parts = {
            "transformer": FluxTransformer2DModel.from_pretrained(root / "transformer", torch_dtype=kind, **safe),
            "vae": AutoencoderKL.from_pretrained(root / "vae", torch_dtype=kind, **safe),
            "text_encoder": CLIPTextModel.from_pretrained(root / "text_encoder", dtype=kind, **safe),
            "text_encoder_2": T5EncoderModel.from_pretrained(root / "text_encoder_2", dtype=kind, **safe),
        }
        return cls(
            **{name: part.to(device) for name, part in parts.items()},
            tokenizer=AutoTokenizer.from_pretrained(root / "tokenizer"),
            tokenizer_2=AutoTokenizer.from_pretrained(root / "tokenizer_2"),
            scheduler=FlowMatchEulerDiscreteScheduler.from_pretrained(root / "scheduler"),
        )

    def offload(self, device: torch.device | str, parts: Literal["text_encoders", "all"]) -> None:
        """Keep these parts in main memory and move them to `device` only while they work; the others go there now."""
        self.device = torch.device(device)
        self._visiting = (self.text_encoder, self.text_encoder_2)
        if parts == "all":
            self._visiting += (self.transformer, self.vae)
        for part in (self.transformer, self.vae, self.text_encoder, self.text_encoder_2):
            part.to("cpu" if part in self._visiting else self.device)

    @contextmanager
    def _at_work(self, *parts: nn.Module) -> Iterator[None]:
        """Inside, `parts` are on the model's device."""
        visiting = [part for part in parts if part in self._visiting]
        if not visiting:
            yield
            return
        with self._working:
            for part in visiting:
                part.to(self.device)
            try:
                yield
            finally:
                for part in visiting:
                    part.to("cpu")

    def encode_each(self, prompts: Iterable[str]) -> dict[str, TextEmbeddings]:
        """Embeddings (a batch of one, in main memory) of each distinct prompt, computed alone.

        So text encoders work once and are done, and an embedding does not depend on what is encoded beside it.
        """
        with self._at_work(self.text_encoder, self.text_encoder_2):
            return {prompt: self._encode_prompts([prompt]).to("cpu") for prompt in dict.fromkeys(prompts)}

    @property
    def dtype(self) -> torch.dtype:
        return self.transformer.dtype

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of tokens of an image; ValueError if its sides are not whole tokens."""
        for name, side in (("height", height), ("width", width)):
            if side % self.token_pixels:
                raise ValueError(f"{name} is {side}; allowed: multiples of {self.token_pixels}")
        return height // self.token_pixels, width // self.token_pixels

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """ValueError if T5 would have to cut a prompt. CLIP, which gives one vector, does cut (at 77 in FLUX)."""
        limit = self.tokenizer_2.model_max_length
        with self.reading:
            counted = self.tokenizer_2(list(prompts)).input_ids
        for prompt, ids in zip(prompts, counted, strict=True):
            if len(ids) > limit:
                raise ValueError(f"prompt has {len(ids)} tokens; allowed: {limit}: {prompt!r}")

    def encode_prompts(self, prompts: Sequence[str]) -> TextEmbeddings:
        """Prompts as FLUX takes them: the T5 sequence, padded to the tokenizer's length, and CLIP's pooled vector."""
        with self._at_work(self.text_encoder, self.text_encoder_2):
            return self._encode_prompts(prompts)

    @torch.no_grad()
    def _encode_prompts(self, prompts: Sequence[str]) -> TextEmbeddings:
        self.check_prompts(prompts)
        with self.reading:
            clip_ids, t5_ids = (
                tokenizer(
                    list(prompts),
                    padding="max_length",
                    max_length=tokenizer.model_max_length,
                    truncation=True,
                    return_tensors="pt",
                ).input_ids.to(self.device)
                for tokenizer in (self.tokenizer, self.tokenizer_2)
            )
        return TextEmbeddings(
            sequence=self.text_encoder_2(t5_ids)[0].to(self.dtype),
            pooled=self.text_encoder(clip_ids).pooler_output.to(self.dtype),
        )

    def encode_images(self, images_bhw3: np.ndarray) -> Tensor:
        """uint8 (B, H, W, 3) RGB to clean latent tokens (B, N, 4C) float32; the mode of the VAE's posterior."""
        return self._encode(latents.to_pixels(images_bhw3))

    def encode_depth(self, depth_bhw: np.ndarray) -> Tensor:
        """Inverse depth (B, H, W) in [0, 1], as three equal channels, to condition tokens (B, N, 4C) float32."""
        pixels = torch.from_numpy(np.ascontiguousarray(depth_bhw))[:, None].expand(-1, 3, -1, -1)
        return self._encode(pixels.float() * 2 - 1)

    def _encode(self, pixels_b3hw: Tensor) -> Tensor:
        self.token_grid(*pixels_b3hw.shape[-2:])
        with self._at_work(self.vae):
            return pack(latents.encode(self.vae, pixels_b3hw))

    def decode(self, tokens_bnc: Tensor, height: int, width: int, tiling: bool = False) -> np.ndarray:
        """Clean latent tokens (B, N, 4C) to uint8 (B, height, width, 3) RGB; `tiling`: in blended tiles, for memory."""
        unpacked = unpack(tokens_bnc.float(), *self.token_grid(height, width))
        with self._at_work(self.vae):
            return latents.decode(self.vae, unpacked, tiling)

    def velocity(
        self,
        tokens_bnc: Tensor,
        condition_bnc: Tensor | None,
        text: TextEmbeddings,
        sigma: float,
        guidance_scale: float,
        grid: tuple[int, int],
        **attention: Any,
    ) -> Tensor:
        """The transformer's prediction (B, N, 4C) for noisy tokens at noise level `sigma` in [0, 1].

        `condition_bnc`: condition tokens of a depth model, else None. `attention` reaches the attention processors.
        """
        hidden = tokens_bnc if condition_bnc is None else torch.cat([tokens_bnc, condition_bnc], dim=-1)
        batch = len(tokens_bnc)
        guidance = None
        if self.transformer.config.guidance_embeds:
            guidance = torch.full((batch,), guidance_scale, device=self.device)
        return self.transformer(
            hidden_states=hidden.to(self.dtype),
            encoder_hidden_states=text.sequence,
            pooled_projections=text.pooled,
            timestep=torch.full((batch,), sigma, device=self.device),
            guidance=guidance,
            img_ids=image_ids(*grid, device=self.device),
            txt_ids=text_ids(text.sequence.shape[1], device=self.device),
            joint_attention_kwargs=attention,
            return_dict=False,
        )[0]
