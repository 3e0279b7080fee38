"""Pictures as users have them, and references cut from them."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MARGIN = 0.25
"""Around the object when a reference comes with its mask, as a share of the object's longer side."""
Picture = str | Path | Image.Image | np.ndarray


def prepare_reference(
    picture: Picture, mask: Picture | None, height: int, width: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """The middle square of a picture, or the square around its object, resized: uint8 (height, width, 3).

    With `mask` also that square of it, bool (height, width): pixels that hold any of the object.
    """
    image = open_picture(picture).convert("RGB")
    if mask is None:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
    else:
        shown = open_picture(mask).convert("L").point(lambda value: 255 if value else 0)
        left, top, side = _object_square(shown, image.size)
    square = (left, top, left + side, top + side)
    cut = np.asarray(image.crop(square).resize((width, height), Image.Resampling.LANCZOS))
    if mask is None:
        return cut, None
    return cut, np.asarray(shown.crop(square).resize((width, height), Image.Resampling.BOX)) > 0


def _object_square(mask: Image.Image, size: tuple[int, int]) -> tuple[int, int, int]:
    """Left, top and side of the square around the object, within the picture as far as it fits."""
    if mask.size != size:
        raise ValueError(
            f"mask is {mask.width} x {mask.height}, its reference {size[0]} x {size[1]}; they must be equal"
        )
    box = mask.getbbox()
    if box is None:
        raise ValueError("mask is empty; it must be non-zero on the object")
    wide, high = box[2] - box[0], box[3] - box[1]
    side = min(round(max(wide, high) * (1 + 2 * MARGIN)), *size)
    centre_x, centre_y = (box[0] + box[2]) // 2, (box[1] + box[3]) // 2
    left = min(max(centre_x - side // 2, 0), size[0] - side)
    top = min(max(centre_y - side // 2, 0), size[1] - side)
    return left, top, side


def open_picture(picture: Picture) -> Image.Image:
    if isinstance(picture, Image.Image):
        return picture
    if isinstance(picture, np.ndarray):
        if picture.dtype not in (np.uint8, np.bool_):
            raise ValueError(
                f"picture is {picture.dtype} {picture.shape}; allowed: uint8 (H, W, 3), bool or uint8 (H, W)"
            )
        return Image.fromarray(picture.astype(np.uint8) * 255 if picture.dtype == np.bool_ else picture)
    try:
        # Cameras turn a picture by a note in its header.
        return ImageOps.exif_transpose(Image.open(picture))
    except UnidentifiedImageError as error:
        raise ValueError(f"{picture}: not a picture that can be read") from error
