"""Where the points of one view are in another, from depth and cameras."""

from dataclasses import dataclass

import numpy as np

from data.cameras import Camera


@dataclass(frozen=True)
class Correspondence:
    uv: np.ndarray
    """(G, G, 2) float32: position in view B of each cell centre of A, in [0, 1] (x right, y down); 0 if invisible."""
    visible: np.ndarray
    """(G, G) bool."""

    @property
    def share(self) -> float:
        """Share of the grid that corresponds."""
        return float(self.visible.mean())


def correspond(
    view_a_depth: np.ndarray,
    cam_a: Camera,
    view_b_depth: np.ndarray,
    cam_b: Camera,
    grid: int,
    tolerance: float = 0.01,
) -> Correspondence:
    """The cell centres of a `grid` x `grid` raster over A, found in B.

    A cell centre on a surface of A is unprojected with A's depth and projected into B. It is visible if it lands
    inside B's frame, on a surface, and B's depth there agrees within `tolerance` (units of the unit box). Whatever
    does not is invisible, never an error. Depths are (H, W) z-depth, 0 for no surface, of the cameras' sizes
    (ValueError otherwise).
    """
    for name, depth, camera in (("A", view_a_depth, cam_a), ("B", view_b_depth, cam_b)):
        if depth.shape != (camera.height, camera.width):
            raise ValueError(f"depth {name} has shape {depth.shape}; its camera is {camera.height} x {camera.width}")
    centres = (np.arange(grid) + 0.5) / grid
    across, down = np.meshgrid(centres * cam_a.width, centres * cam_a.height)
    pixels = np.stack([across, down], axis=-1).reshape(-1, 2)
    depth_a = _sample(view_a_depth, pixels, tolerance)
    start = np.flatnonzero(depth_a > 0)

    landed, expected = cam_b.project(cam_a.unproject(pixels[start], depth_a[start]))
    with np.errstate(invalid="ignore"):
        inside = (expected > 0) & (landed >= 0).all(axis=1) & (landed < (cam_b.width, cam_b.height)).all(axis=1)
    start, landed, expected = start[inside], landed[inside], expected[inside]
    found = _sample(view_b_depth, landed, tolerance)
    agree = (found > 0) & (np.abs(found - expected) <= tolerance)

    uv = np.zeros((grid * grid, 2), np.float32)
    visible = np.zeros(grid * grid, bool)
    visible[start[agree]] = True
    uv[start[agree]] = landed[agree] / (cam_b.width, cam_b.height)
    return Correspondence(uv.reshape(grid, grid, 2), visible.reshape(grid, grid))


_MAX_STEP = 12.0
"""Depth steps between neighbouring pixels beyond this many tolerances are taken for an edge."""
_SAME = 1e-6
"""Pixels: cell centres often lie on pixel borders, and rounding must not decide which pixel they belong to."""


def _sample(depth: np.ndarray, pixels: np.ndarray, tolerance: float) -> np.ndarray:
    """z-depth (N,) at pixel coordinates (N, 2) inside the frame; 0 where the nearest pixel has no surface.

    Inverse depth is interpolated, which is exact on planes, where the four pixel centres around are all on a surface
    without an edge between them; elsewhere the nearest pixel counts.
    """
    height, width = depth.shape
    column = np.minimum((pixels[:, 0] + _SAME).astype(np.intp), width - 1)
    row = np.minimum((pixels[:, 1] + _SAME).astype(np.intp), height - 1)
    nearest = depth[row, column].astype(np.float64)
    x = np.clip(pixels[:, 0] - 0.5, 0, width - 1)
    y = np.clip(pixels[:, 1] - 0.5, 0, height - 1)
    left, top = (x + _SAME).astype(np.intp), (y + _SAME).astype(np.intp)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    around = np.stack([depth[top, left], depth[top, right], depth[bottom, left], depth[bottom, right]])
    around = around.astype(np.float64)
    low = around.min(axis=0)
    smooth = (low > 0) & (around.max(axis=0) - low <= _MAX_STEP * tolerance)
    fx, fy = (x - left)[smooth], (y - top)[smooth]
    a, b, c, d = 1.0 / around[:, smooth]
    sampled = nearest
    sampled[smooth] = 1.0 / ((a * (1 - fx) + b * fx) * (1 - fy) + (c * (1 - fx) + d * fx) * fy)
    return sampled
