"""FLUX token layout: 2 x 2 latent patches as tokens, and the positions that RoPE sees."""

import torch
from torch import Tensor


def pack(latents_bchw: Tensor) -> Tensor:
    """Latents (B, C, 2h, 2w) to tokens (B, h*w, 4C), row by row, channels in diffusers' (C, 2, 2) order."""
    batch, channels, height, width = latents_bchw.shape
    if height % 2 or width % 2:
        raise ValueError(f"latents are {height} x {width}; both sides must be even to form 2 x 2 patches")
    patches = latents_bchw.reshape(batch, channels, height // 2, 2, width // 2, 2)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, (height // 2) * (width // 2), channels * 4)


def unpack(tokens_bnc: Tensor, height: int, width: int) -> Tensor:
    """Tokens (B, height*width, 4C) of a `height` x `width` token grid to latents (B, C, 2*height, 2*width)."""
    batch, count, channels = tokens_bnc.shape
    if count != height * width:
        raise ValueError(f"{count} tokens do not fill a grid of {height} x {width} = {height * width}")
    patches = tokens_bnc.reshape(batch, height, width, channels // 4, 2, 2)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels // 4, height * 2, width * 2)


def image_ids(height: int, width: int, row_offset: int = 0, device: torch.device | str = "cpu") -> Tensor:
    """Position ids (height*width, 3) float32 of an image's token grid: (0, row + row_offset, column)."""
    ids = torch.zeros(height, width, 3, device=device)
    ids[..., 1] = torch.arange(row_offset, row_offset + height, device=device)[:, None]
    ids[..., 2] = torch.arange(width, device=device)
    return ids.reshape(height * width, 3)


def text_ids(count: int, device: torch.device | str = "cpu") -> Tensor:
    """Position ids (count, 3) float32 of text tokens: FLUX places them all at the origin."""
    return torch.zeros(count, 3, device=device)
