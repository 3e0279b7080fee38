"""Pictures as users have them, and references cut from them."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from data.squares import middle_square, object_square

Picture = str | Path | Image.Image | np.ndarray


def prepare_reference(
    picture: Picture, mask: Picture | None, height: int, width: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """The middle square of a picture, or the square around its object, resized: uint8 (height, width, 3).

    With `mask` also that square of it, bool (height, width): pixels that hold any of the object.
    """
    image = open_picture(picture)
    if mask is None:
        return middle_square(image.size).cut(image, height, width), None
    shown = open_picture(mask).convert("L").point(lambda value: 255 if value else 0)
    if shown.size != image.size:
        raise ValueError(
            f"mask is {shown.width} x {shown.height}, its reference {image.width} x {image.height}; they must be equal"
        )
    box = shown.getbbox()
    if box is None:
        raise ValueError("mask is empty; it must be non-zero on the object")
    square = object_square(box, image.size)
    return square.cut(image, height, width), square.cut_mask(shown, height, width)


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
