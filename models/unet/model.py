"""The parts of an SD-1.5 or SDXL type of model in a standard diffusers folder, with its IP-Adapter Plus."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import (
    AutoTokenizer,
    CLIPImageProcessorPil,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionModelWithProjection,
    PreTrainedTokenizerBase,
)

from models import latents
from models.scorers.loading import load_complete, pixels
from models.unet.ip_adapter import install_ip_adapter, read_ip_adapter
from models.unet.sampling import NoiseLevels, check_schedule


@dataclass(frozen=True)
class TextEmbeddings:
    sequence: Tensor
    """(B, T, C)."""
    pooled: Tensor | None
    """(B, P) of SDXL's second encoder."""

    def __len__(self) -> int:
        return len(self.sequence)

    def expand(self, batch: int) -> "TextEmbeddings":
        """A batch of one, `batch` times."""
        pooled = None if self.pooled is None else self.pooled.expand(batch, -1)
        return TextEmbeddings(self.sequence.expand(batch, -1, -1), pooled)

    @classmethod
    def joined(cls, parts: Sequence["TextEmbeddings"]) -> "TextEmbeddings":
        """One batch of all parts."""
        pooled = None if parts[0].pooled is None else torch.cat([part.pooled for part in parts])
        return cls(torch.cat([part.sequence for part in parts]), pooled)


class UNetModel:
    """A loaded U-Net model. Weights are used as they are: their device and dtype are the model's.

    One text encoder is SD 1.5's way, two are SDXL's. Raises ValueError if parts do not fit together, or if the
    scheduler's configuration is not that of velocities with zero terminal SNR.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        text_encoders: Sequence[CLIPTextModel | CLIPTextModelWithProjection],
        tokenizers: Sequence[PreTrainedTokenizerBase],
        image_encoder: CLIPVisionModelWithProjection,
        feature_extractor: Any,
        ip_adapter: Mapping[str, Tensor],
        schedule: Mapping[str, Any],
    ) -> None:
        check_schedule(schedule)
        self.unet, self.vae, self.image_encoder, self.feature_extractor = unet, vae, image_encoder, feature_extractor
        self.text_encoders, self.tokenizers, self.schedule = tuple(text_encoders), tuple(tokenizers), schedule
        self.levels = NoiseLevels(schedule)
        self.latent_channels: int = vae.config.latent_channels
        self.latent_pixels: int = 2 ** (len(vae.config.block_out_channels) - 1)
        self.sdxl: bool = unet.config.addition_embed_type == "text_time"
        self._check_parts()
        self.device, self.dtype = unet.device, unet.dtype
        self.resampler = install_ip_adapter(unet, ip_adapter)
        for part in (unet, vae, image_encoder, *text_encoders):
            part.requires_grad_(False).eval()

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: torch.device | str, dtype: torch.dtype) -> Self:
        """Load a folder in `dtype` on `device`.

        It has unet, vae, text_encoder(_2), tokenizer(_2), scheduler and image_encoder, as diffusers saves a pipeline,
        and one IP-Adapter Plus, `ip_adapter/*.safetensors`. Without feature_extractor, images are prepared as
        diffusers does by default: CLIP's statistics at the image encoder's size.
        """
        root = Path(folder)
        sdxl = (root / "text_encoder_2").is_dir()
        kinds = {"text_encoder": CLIPTextModel}
        if sdxl:
            kinds["text_encoder_2"] = CLIPTextModelWithProjection
        unet, vae = (
            kind.from_pretrained(root / name, torch_dtype=dtype, use_safetensors=True).to(device)
            for name, kind in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL))
        )
        image_encoder = load_complete(CLIPVisionModelWithProjection, root / "image_encoder", str(device), dtype)
        size = image_encoder.config.image_size
        extractor = (
            CLIPImageProcessorPil.from_pretrained(root / "feature_extractor", local_files_only=True)
            if (root / "feature_extractor").is_dir()
            else CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
        )
        return cls(
            unet=unet,
            vae=vae,
            text_encoders=[load_complete(kind, root / name, str(device), dtype) for name, kind in kinds.items()],
            tokenizers=[AutoTokenizer.from_pretrained(root / f"tokenizer{end}") for end in ("", "_2")[: len(kinds)]],
            image_encoder=image_encoder,
            feature_extractor=extractor,
            ip_adapter=read_ip_adapter(_adapter_file(root)),
            schedule=DDPMScheduler.load_config(root / "scheduler"),
        )

    def latent_grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of latents of an image; ValueError if its sides are not whole latents."""
        for name, side in (("height", height), ("width", width)):
            if side % self.latent_pixels:
                raise ValueError(f"{name} is {side}; allowed: multiples of {self.latent_pixels}")
        return height // self.latent_pixels, width // self.latent_pixels

    def encode_images(self, images_bhw3: np.ndarray) -> Tensor:
        """uint8 (B, H, W, 3) RGB to clean latents (B, C, h, w) float32."""
        self.latent_grid(*images_bhw3.shape[1:3])
        return latents.encode(self.vae, latents.to_pixels(images_bhw3))

    @torch.no_grad()
    def encode_appearance(self, images: Sequence[np.ndarray]) -> Tensor:
        """uint8 (H, W, 3) images to CLIP's tokens (B, T, D), the last hidden states but one, for the resampler."""
        values = pixels(self.feature_extractor, images).to(self.device, self.dtype)
        return self.image_encoder(pixel_values=values, output_hidden_states=True).hidden_states[-2]

    @torch.no_grad()
    def encode_no_appearance(self) -> Tensor:
        """CLIP's tokens (T, D) of no image: of pixels that are zero once prepared, as an IP-Adapter Plus learns it.

        Its training drops an image so (tencent-ailab/IP-Adapter, tutorial_train_plus.py), and its samplers, diffusers'
        `encode_image` among them, take it as the unconditional image.
        """
        size = self.image_encoder.config.image_size
        values = torch.zeros(1, self.image_encoder.config.num_channels, size, size)
        values = values.to(self.device, self.dtype)
        return self.image_encoder(pixel_values=values, output_hidden_states=True).hidden_states[-2][0]

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """ValueError if CLIP would have to cut a prompt, from which it all follows."""
        limit = min(tokenizer.model_max_length for tokenizer in self.tokenizers)
        for prompt, ids in zip(prompts, self.tokenizers[0](list(prompts)).input_ids, strict=True):
            if len(ids) > limit:
                raise ValueError(f"prompt has {len(ids)} tokens; allowed: {limit}: {prompt!r}")

    def encode_prompts(self, prompts: Sequence[str]) -> TextEmbeddings:
        """SD 1.5: CLIP's last hidden states. SDXL: the last but one of both encoders, and the second's pooled text.

        Gradients reach what of the encoders is trained, which is nothing unless a caller opens it.
        """
        self.check_prompts(prompts)
        found = []
        for encoder, tokenizer in zip(self.text_encoders, self.tokenizers, strict=True):
            length = tokenizer.model_max_length
            tokens = tokenizer(list(prompts), padding="max_length", max_length=length, return_tensors="pt")
            found.append(encoder(tokens.input_ids.to(self.device), output_hidden_states=True))
        if not self.sdxl:
            return TextEmbeddings(found[0].last_hidden_state, None)
        return TextEmbeddings(torch.cat([own.hidden_states[-2] for own in found], dim=-1), found[1].text_embeds)

    def velocity(self, noisy: Tensor, timesteps: Tensor, text: TextEmbeddings, image_tokens: Tensor) -> Tensor:
        """The U-Net's prediction (B, C, h, w) at `timesteps` (B,); `image_tokens` (B, Q, C), zero for no IP-Adapter.

        SDXL is told the image's height and width in pixels, as original and as target size, uncropped.
        """
        added = None
        if self.sdxl:
            size = [side * self.latent_pixels for side in noisy.shape[-2:]]
            ids = torch.tensor([*size, 0, 0, *size], device=self.device, dtype=self.dtype).expand(len(noisy), -1)
            added = {"text_embeds": text.pooled, "time_ids": ids}
        return self.unet(
            noisy.to(self.device, self.dtype),
            timesteps.to(self.device),
            # As the U-Net hands them on to its layers once it has projected image embeddings itself.
            encoder_hidden_states=(text.sequence, [image_tokens[:, None]]),
            added_cond_kwargs=added,
            return_dict=False,
        )[0]

    def _check_parts(self) -> None:
        config = self.unet.config
        if config.in_channels != self.latent_channels:
            raise ValueError(f"unet.in_channels is {config.in_channels}; this VAE allows {self.latent_channels}")
        if config.addition_embed_type not in (None, "text_time"):
            raise ValueError(
                f"unet.addition_embed_type is {config.addition_embed_type!r}; allowed: None (SD 1.5), text_time (SDXL)"
            )
        if len(self.text_encoders) != 1 + self.sdxl:
            raise ValueError(f"{len(self.text_encoders)} text encoders; this U-Net takes {1 + self.sdxl}")
        width = sum(encoder.config.hidden_size for encoder in self.text_encoders)
        if width != config.cross_attention_dim:
            raise ValueError(f"unet.cross_attention_dim is {config.cross_attention_dim}; the text has {width} channels")


def _adapter_file(root: Path) -> Path:
    found = sorted((root / "ip_adapter").glob("*.safetensors"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ValueError(f"{root / 'ip_adapter'}: one IP-Adapter Plus is needed as *.safetensors; there: {names}")
    return found[0]
