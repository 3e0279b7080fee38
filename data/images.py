"""PNG in memory: equal pixels give equal bytes."""

import io

import numpy as np
from PIL import Image


def encode_png(image: np.ndarray) -> bytes:
    """uint8 (H, W) or (H, W, 3), bool (H, W) (stored as 0 and 255) or uint16 (H, W) as PNG."""
    pixels = image.astype(np.uint8) * 255 if image.dtype == bool else image
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def decode_png(data: bytes) -> np.ndarray:
    """The pixels as stored: uint8 or uint16, (H, W) or (H, W, C)."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def decode_mask(data: bytes) -> np.ndarray:
    """bool (H, W): true where the stored mask is not 0."""
    return decode_png(data) > 0
