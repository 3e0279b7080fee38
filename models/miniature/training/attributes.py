"""What the encoders' trainings share: the attributes of a view as class labels, and small random changes."""

import numpy as np
import torch
from torch import Tensor

from models.miniature.dataset import Views
from models.miniature.world import CATEGORIES, COLOURS, PATTERNS

KINDS = {"category": CATEGORIES, "primary": tuple(COLOURS), "secondary": tuple(COLOURS), "pattern": PATTERNS}


def attribute_labels(views: Views) -> Tensor:
    """(V, 6): category, primary, secondary, pattern, scene, prop (0 for none)."""
    by_object = np.array([[KINDS[kind].index(getattr(spec, kind)) for kind in KINDS] for spec in views.specs()])
    columns = [by_object[views.objects], views.scenes[:, None], views.others[:, None] + 1]
    return torch.from_numpy(np.concatenate(columns, axis=1))


def jittered(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Shifted by up to 3 pixels, brightness and contrast a little off, noise: views of one image differ so."""
    count, _, size, _ = pixels.shape
    padded = torch.nn.functional.pad(pixels, (3, 3, 3, 3), mode="replicate")
    offsets = torch.randint(0, 7, (count, 2), generator=generator)
    rows = offsets[:, :1] + torch.arange(size)
    columns = offsets[:, 1:] + torch.arange(size)
    each = torch.arange(count)[:, None, None]
    moved = padded.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    gain = 1 + 0.1 * (torch.rand(count, 1, 1, 1, generator=generator) - 0.5)
    level = 0.1 * (torch.rand(count, 1, 1, 1, generator=generator) - 0.5)
    noise = torch.randn(moved.shape, generator=generator) * 0.08 * torch.rand(count, 1, 1, 1, generator=generator)
    return moved * gain + level + noise


def patch_depth_loss(predicted: Tensor, depths: Tensor) -> Tensor:
    """Mean squared error of the depth in each patch, predicted from the patch's token.

    A dense target teaches a small ViT shapes with far fewer images than the class labels alone. `predicted`
    (N, P * P, (S / P) ** 2), `depths` (N, S, S).
    """
    side = round(predicted.shape[2] ** 0.5)
    patches = depths.unfold(1, side, side).unfold(2, side, side).reshape(predicted.shape)
    return (predicted.float() - patches).square().mean()


def plane_positions(side: int, width: int) -> Tensor:
    """(side * side, width) sines and cosines of row and column, one quarter of the channels each.

    A ViT that starts with them sees shapes early; with small random positions it is long a bag of patches.
    """
    frequencies = torch.exp(torch.linspace(0.0, -np.log(side), width // 4)) * np.pi / 2
    angles = torch.arange(side).float()[:, None] * frequencies
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows = waves[:, None].expand(-1, side, -1)
    columns = waves[None].expand(side, -1, -1)
    return torch.cat([rows, columns], dim=-1).reshape(side * side, width)
