"""Pictures for the page, inside it as data addresses: small ones as they are, large ones reduced."""

import base64
import io
from dataclasses import dataclass

from PIL import Image

PIXELATED_UP_TO = 128
"""Pictures no larger than this keep every pixel and are drawn with sharp edges."""
LONGEST_SIDE = 224
"""Larger pictures are reduced to this, which keeps a page of 24 sets of 1024 px images below 10 MB."""
JPEG_QUALITY = 85


@dataclass(frozen=True)
class Picture:
    src: str
    width: int
    height: int
    pixelated: bool
    label: str
    """What the picture shows: its text alternative."""


def picture(data: bytes, label: str) -> Picture:
    """A PNG (8-bit grey, 8-bit RGB or a mask) as it goes into the page."""
    with Image.open(io.BytesIO(data)) as image:
        longest = max(image.size)
        if longest <= PIXELATED_UP_TO:
            return Picture(_address(data, "png"), *image.size, True, label)
        image = image.convert("RGB" if image.mode not in ("L", "1") else "L")
        scale = min(1.0, LONGEST_SIDE / longest)
        size = tuple(max(1, round(side * scale)) for side in image.size)
        reduced = image.resize(size, Image.Resampling.BOX, reducing_gap=None)
    buffer = io.BytesIO()
    reduced.save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return Picture(_address(buffer.getvalue(), "jpeg"), *reduced.size, False, label)


def _address(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
