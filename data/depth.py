"""Depth as 16-bit PNG, and as the inverse-depth condition of the generator."""

import numpy as np

from data.images import decode_png, encode_png

_TOP = 65535


def encode_depth16(depth: np.ndarray) -> tuple[bytes, float, float]:
    """z-depth (H, W), 0 where there is no surface, to (PNG, near, far).

    Value v > 0 of the PNG stands for near + v / 65535 * (far - near); 0 stays 0. Surfaces use the values 1 to 65535,
    so the error of a round trip is at most (max - min) / 131068, plus float32 rounding. Raises ValueError for depth
    that is negative or not finite.
    """
    if depth.ndim != 2:
        raise ValueError(f"depth has shape {depth.shape}; it must be (H, W)")
    if not np.isfinite(depth).all() or (depth < 0).any():
        raise ValueError("depth holds negative or non-finite values; 0 marks pixels without surface")
    surface = depth > 0
    values = np.zeros(depth.shape, np.uint16)
    if not surface.any():
        return encode_png(values), 0.0, 1.0
    low, far = float(depth[surface].min()), float(depth[surface].max())
    if low == far:
        values[surface] = _TOP
        return encode_png(values), 0.0, far
    near = low - (far - low) / (_TOP - 1)
    values[surface] = np.round((depth[surface].astype(np.float64) - near) / (far - near) * _TOP)
    return encode_png(values), near, far


def decode_depth16(data: bytes, near: float, far: float) -> np.ndarray:
    """(H, W) float32 z-depth; the inverse of `encode_depth16`. Raises ValueError unless the PNG has 16 bits."""
    values = decode_png(data)
    if values.dtype != np.uint16 or values.ndim != 2:
        raise ValueError(f"depth PNG holds {values.dtype} of shape {values.shape}; it must be 16-bit grey")
    depth = near + values.astype(np.float64) / _TOP * (far - near)
    return np.where(values > 0, depth, 0.0).astype(np.float32)


def inverse_depth_condition(depth: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(H, W) float32 in [0, 1]: inverse depth, min-max over the object, background 0.

    1 is the nearest point; a flat object is 1 throughout. Raises ValueError for an object pixel without depth.
    """
    if depth.shape != mask.shape:
        raise ValueError(f"depth has shape {depth.shape} and the mask {mask.shape}; they must be equal")
    condition = np.zeros(depth.shape, np.float32)
    if not mask.any():
        return condition
    if not (depth[mask] > 0).all():
        raise ValueError(f"{int((depth[mask] <= 0).sum())} object pixels have no depth; the mask must be depth > 0")
    inverse = 1.0 / depth[mask].astype(np.float64)
    low, high = inverse.min(), inverse.max()
    condition[mask] = 1.0 if high == low else (inverse - low) / (high - low)
    return condition
