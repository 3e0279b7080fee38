"""Images to latents and back with an AutoencoderKL, and the noise that sampling starts from."""

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor


def to_pixels(images_bhw3: np.ndarray) -> Tensor:
    """uint8 (B, H, W, 3) RGB to float32 (B, 3, H, W) in [-1, 1]."""
    pixels = torch.from_numpy(np.ascontiguousarray(images_bhw3)).permute(0, 3, 1, 2)
    return pixels.float() / 127.5 - 1


@torch.no_grad()
def encode(vae: AutoencoderKL, pixels_b3hw: Tensor) -> Tensor:
    """Clean normalised latents (B, C, h, w) float32: the mode of the VAE's posterior."""
    pixels = pixels_b3hw.contiguous().to(vae.device, vae.dtype)
    latents = vae.encode(pixels).latent_dist.mode().float()
    shift, scale = _statistics(vae)
    return (latents - shift) * scale


@torch.no_grad()
def decode(vae: AutoencoderKL, latents_bchw: Tensor, tiling: bool = False) -> np.ndarray:
    """Normalised latents (B, C, h, w) to uint8 (B, H, W, 3) RGB; `tiling`: in blended tiles, for memory."""
    shift, scale = _statistics(vae)
    latents = latents_bchw.float() / scale + shift
    run = vae.tiled_decode if tiling else vae.decode
    pixels = run(latents.to(vae.device, vae.dtype), return_dict=False)[0]
    scaled = ((pixels.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def _statistics(vae: AutoencoderKL) -> tuple[float, float]:
    return vae.config.shift_factor or 0.0, vae.config.scaling_factor


def initial_noise(seeds: Sequence[int], channels: int, height: int, width: int) -> Tensor:
    """Standard normal (len(seeds), channels, height, width) float32: one CPU generator per image, nothing shared."""
    shape = (channels, height, width)
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
