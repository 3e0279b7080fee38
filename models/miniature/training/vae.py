"""The autoencoder: 64 px images and depth conditions to 16 x 16 latents of 16 channels, and back."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from models.miniature.dataset import Views
from models.miniature.training.common import Cost, Draws, fit, to_tensor

BATCH = 16
DEPTHS = 3
"""Depth conditions in a batch; the first of them is blank in every second batch."""
KL_WEIGHT = 1e-6
OBJECT_WEIGHT = 1.5
"""Added weight of object pixels: patterns live there."""


def build() -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 96),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=8,
        sample_size=64,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
        scaling_factor=1.0,
        shift_factor=0.0,
    )


def train(views: Views, steps: int, seed: int, work_dir: Path) -> tuple[AutoencoderKL, Cost]:
    """Fit on composites, depth conditions and blanks; latent mean and scale go into the configuration."""
    torch.manual_seed(seed)
    vae = build()
    batch = min(BATCH, len(views))

    def loss_of(draws: Draws) -> Tensor:
        rows = draws.rows(len(views), batch)
        images = to_tensor(views.images[rows])
        images[:DEPTHS] = to_tensor(views.depths[rows[:DEPTHS]])
        if draws.step % 2:
            images[0] = -1
        weight = 1 + OBJECT_WEIGHT * torch.from_numpy(views.masks[rows])[:, None].float()
        posterior = vae.encode(images).latent_dist
        decoded = vae.decode(posterior.sample()).sample.float()
        return reconstruction_loss(decoded, images, weight) + KL_WEIGHT * posterior.kl().float().mean()

    cost = fit("vae", vae, steps, 2e-3, batch, loss_of, work_dir, seed)
    set_latent_statistics(vae, views)
    return vae, cost


def load(folder: Path) -> AutoencoderKL:
    return AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32).eval()


def set_latent_statistics(vae: AutoencoderKL, views: Views) -> None:
    """Shift and scale of the latents of composites, so that the generator sees mean 0 and deviation 1."""
    latents = encode(vae, views.images[:: max(1, len(views) // 1024)])
    shift, scale = float(latents.mean()), 1 / float(latents.std())
    vae.register_to_config(scaling_factor=round(scale, 6), shift_factor=round(shift, 6))


def reconstruction_loss(decoded: Tensor, images: Tensor, weight: Tensor) -> Tensor:
    """Weighted L1 of pixels and of the differences between neighbours, which keep edges and patterns crisp.

    `decoded`, `images` (N, 3, H, W); `weight` (N, 1, H, W).
    """
    loss = (weight * (decoded - images).abs()).mean()
    rows = (decoded.diff(dim=2) - images.diff(dim=2)).abs() * weight[:, :, 1:]
    columns = (decoded.diff(dim=3) - images.diff(dim=3)).abs() * weight[:, :, :, 1:]
    return loss + 0.5 * (rows.mean() + columns.mean())


@torch.inference_mode()
def encode(vae: AutoencoderKL, images: np.ndarray, batch: int = 64) -> Tensor:
    """uint8 (N, H, W, 3) or grey (N, H, W) to latent means (N, 16, H/4, W/4) float32, neither shifted nor scaled."""
    parts = []
    for start in range(0, len(images), batch):
        pixels = to_tensor(images[start : start + batch])
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(pixels).latent_dist
        parts.append(posterior.mode().float())
    return torch.cat(parts).contiguous()


@torch.inference_mode()
def decode(vae: AutoencoderKL, latents: Tensor, batch: int = 64) -> np.ndarray:
    """Latents as `encode` gives them to uint8 (N, H, W, 3)."""
    parts = []
    for part in latents.split(batch):
        with torch.autocast("cpu", torch.bfloat16):
            decoded = vae.decode(part).sample.float()
        parts.append(((decoded / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1))
    return torch.cat(parts).contiguous().numpy()


def evaluate(vae: AutoencoderKL, views: Views) -> dict[str, float]:
    """Mean absolute error on [-1, 1] and PSNR of reconstructions, of composites and of depth conditions."""
    result = {}
    for name, images in (("image", views.images), ("depth", np.repeat(views.depths[..., None], 3, axis=3))):
        decoded = decode(vae, encode(vae, images)).astype(np.float64)
        error = decoded - images
        result[f"{name}_l1"] = round(float(np.abs(error).mean()) / 127.5, 4)
        psnr = 10 * np.log10(255**2 / np.maximum((error**2).mean(axis=(1, 2, 3)), 1e-9))
        result[f"{name}_psnr_db"] = round(float(psnr.mean()), 2)
    return result
