"""Warping (thesis Eq. 5.2): tokens of one image replaced by what corresponds to them in another image of the set.

The source order is fixed: image t takes from images 0, 1, ..., t - 1, later ones filling only what earlier ones left.
So image 0 is never changed and no two images trade places. Sources are read before any token is replaced.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data.correspondence import Correspondence

# Correspondences are float32 in [0, 1]; this rounds their error away, so that whole-token shifts are exact copies.
POSITION_STEPS = 1024


@dataclass(frozen=True)
class Warp:
    """M tokens of a batch of B images with N tokens each, and the four tokens each is interpolated from."""

    image_tokens: int
    targets: Tensor
    """(M,) positions in the flattened (B * N) image tokens."""
    sources: Tensor
    """(M, 4) positions likewise."""
    weights: Tensor
    """(M, 4) float32 bilinear weights, each row summing to 1."""

    def __call__(self, tokens_bsc: Tensor) -> Tensor:
        """Warp the last N tokens of sequences (B, T + N, C); text tokens before them are left alone."""
        text, image = tokens_bsc.tensor_split([tokens_bsc.shape[1] - self.image_tokens], dim=1)
        flat = image.flatten(0, 1)
        warped = flat.clone()
        warped[self.targets] = (flat[self.sources].float() * self.weights[..., None]).sum(1).to(flat.dtype)
        return torch.cat([text, warped.view_as(image)], dim=1)


def plan_warp(
    correspondences: Sequence[Mapping[tuple[int, int], Correspondence]],
    set_size: int,
    height: int,
    width: int,
    device: torch.device | str = "cpu",
    copies: int = 1,
) -> Warp:
    """Plan the warp of sets of `set_size` images on a `height` x `width` token grid, one mapping per set.

    Mappings are keyed (target, source); pairs with source < target are used and must be there (ValueError). `copies`:
    how often the batch is repeated, e.g. 2 with a negative pass.
    """
    count = height * width
    targets, sources, weights = [], [], []
    for place, matches in enumerate(correspondences):
        first = place * set_size
        for target in range(1, set_size):
            free = torch.ones(count, dtype=torch.bool)
            for source in range(target):
                if (target, source) not in matches:
                    raise ValueError(f"correspondences has no pair {(target, source)}; warping needs it")
                match = matches[target, source]
                visible, corners, shares = match_tokens(match.uv, match.visible, height, width)
                taken = (visible & free).nonzero()[:, 0]
                free[taken] = False
                targets.append(taken + (first + target) * count)
                sources.append(corners[taken] + (first + source) * count)
                weights.append(shares[taken])
    batch = len(correspondences) * set_size * count
    nothing = torch.zeros(0, dtype=torch.int64)
    target = torch.cat([nothing, *targets])
    source = torch.cat([nothing.view(0, 4), *sources])
    weight = torch.cat([torch.zeros(0, 4), *weights])
    return Warp(
        image_tokens=count,
        targets=torch.cat([target + copy * batch for copy in range(copies)]).to(device),
        sources=torch.cat([source + copy * batch for copy in range(copies)]).to(device),
        weights=weight.repeat(copies, 1).to(device),
    )


def match_tokens(uv: np.ndarray, visible: np.ndarray, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """A dense correspondence on a token grid: (visible (N,) bool, corners (N, 4) token indices, weights (N, 4)).

    `uv` (G, G, 2): position (x, y) in the source in [0, 1] for every cell of the target; `visible` (G, G) bool. A match
    outside the source, or not a number, is invisible. A token is visible if more than half of its area is; its
    displacement is the mean over its visible cells. Corners are clamped to the grid.
    """
    rows, columns = visible.shape
    position = torch.from_numpy(np.asarray(uv, dtype=np.float64))
    seen = torch.from_numpy(np.asarray(visible, dtype=bool)) & ((position >= 0) & (position <= 1)).all(-1)
    displacement = torch.where(seen[..., None], position - _centres(rows, columns), 0.0)
    planes = torch.cat([displacement, seen[..., None].double()], dim=-1).permute(2, 0, 1)[None]
    dx, dy, share = F.interpolate(planes, size=(height, width), mode="area")[0]
    moved = torch.stack([dx, dy], dim=-1) / share.clamp_min(1e-9)[..., None] + _centres(height, width)
    grid = torch.tensor([width, height], dtype=torch.float64)
    place = ((moved * grid - 0.5) * POSITION_STEPS).round() / POSITION_STEPS
    x, y = place.reshape(-1, 2).unbind(-1)
    left, top = x.floor(), y.floor()
    corners, weights = [], []
    for row, weight_y in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, weight_x in ((left, 1 - (x - left)), (left + 1, x - left)):
            corners.append(row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1).long())
            weights.append(weight_x * weight_y)
    return (share > 0.5).flatten(), torch.stack(corners, -1), torch.stack(weights, -1).float()


def _centres(rows: int, columns: int) -> Tensor:
    """Centres (rows, columns, 2) of the cells of a grid as (x, y) in [0, 1], float64."""
    y = (torch.arange(rows, dtype=torch.float64) + 0.5) / rows
    x = (torch.arange(columns, dtype=torch.float64) + 0.5) / columns
    return torch.stack([x.expand(rows, columns), y[:, None].expand(rows, columns)], dim=-1)
