"""Which views make a set, and where the object stands in each frame. Pure functions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.correspondence import correspond
from data.rendering import View

GROUND_BAND = 100 / 1024
"""The object's lower edge stands within this share of the frame's height from its bottom (the release's 100 px)."""
_BEAM = 50_000


@dataclass(frozen=True)
class Placement:
    """What `Camera.placed` takes; shifts in pixels."""

    scale: float
    dx: float
    dy: float


def draw_placement(mask: np.ndarray, rng: np.random.Generator, min_area: float = 0.10) -> Placement | None:
    """Scale and shift an object onto the ground, or None if it fills less than `min_area` of the frame.

    `mask` (H, W) bool is that of the camera to be placed. The scale refers to the frame: uniform in [0.9, 0.95] for
    objects below 20 % of its area, else in [0.7, 0.95]. Horizontally the object's box is anywhere inside the frame;
    its lower edge is within GROUND_BAND of the bottom, its upper edge inside.
    """
    height, width = mask.shape
    area = float(mask.mean())
    if area < min_area or not mask.any():
        return None
    scale = float(rng.uniform(0.9 if area < 0.20 else 0.7, 0.95))
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    # The box in pixel edges, scaled about the frame's centre, before the shift.
    left, right = (width / 2 + (edge - width / 2) * scale for edge in (float(columns[0]), float(columns[-1] + 1)))
    top, bottom = (height / 2 + (edge - height / 2) * scale for edge in (float(rows[0]), float(rows[-1] + 1)))
    dx = float(rng.uniform(-left, width - right))
    room = min(GROUND_BAND * height, height - (bottom - top))
    dy = float(height - rng.uniform(0.0, room) - bottom)
    return Placement(scale, dx, dy)


def pairwise_overlap(views: Sequence[View], grid: int = 128, tolerance: float = 0.01) -> np.ndarray:
    """(n, n) symmetric: the smaller of both directions' shares of the grid that correspond; the diagonal is 1."""
    count = len(views)
    share = np.ones((count, count))
    for i, a in enumerate(views):
        for j, b in enumerate(views):
            if i != j:
                share[i, j] = correspond(a.depth, a.camera, b.depth, b.camera, grid, tolerance).share
    return np.minimum(share, share.T)


def choose_view_sets(
    overlap: np.ndarray, size: int, min_overlap: float = 0.10, max_sets: int = 1
) -> list[tuple[int, ...]]:
    """Up to `max_sets` different subsets of `size` views in which every pair overlaps by at least `min_overlap`.

    Ascending by their total overlap: the most diverse views that still correspond come first, ties by index. An empty
    list: no subset qualifies. `overlap` is (n, n) and symmetric. Exact while at most 50,000 partial subsets qualify
    (all triplets of 67 views); beyond, the least overlapping partial subsets are followed. Raises ValueError for a
    size below 2.
    """
    if size < 2:
        raise ValueError(f"size is {size}; a set needs at least 2 views")
    count = len(overlap)
    subsets = np.arange(count)[:, None]
    totals = np.zeros(count)
    for _ in range(size - 1):
        # (partial subset, view): overlaps of the view with every member of the subset.
        pairs = overlap[subsets].transpose(0, 2, 1)
        allowed = (pairs >= min_overlap).all(axis=2) & (np.arange(count) > subsets[:, -1:])
        rows, added = np.nonzero(allowed)
        totals = totals[rows] + pairs[rows, added].sum(axis=1)
        subsets = np.concatenate([subsets[rows], added[:, None]], axis=1)
        order = np.lexsort((*subsets.T[::-1], np.round(totals, 12)))[:_BEAM]
        subsets, totals = subsets[order], totals[order]
    return [tuple(int(view) for view in subset) for subset in subsets[:max_sets]]
