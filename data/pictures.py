"""Pictures as users have them, and references cut from them."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from data.squares import middle_square, object_square

Picture = str | Path | Image.Image | np.ndarray
FORMATS = ("PNG", "JPEG", "WEBP")
LOSSY = ("JPEG", "WEBP")
MAX_PIXELS = 178_956_970
"""What Pillow refuses unless told otherwise, with a warning from half of that on."""
Image.MAX_IMAGE_PIXELS = MAX_PIXELS


class PictureError(ValueError):
    """A picture from outside that is not read; `problem` is the message without its name."""

    def __init__(self, name: object, problem: str) -> None:
        super().__init__(f"{name}: {problem}")
        self.problem = problem


def prepare_reference(
    picture: Picture, mask: Picture | None, height: int, width: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """The middle square of a picture, or the square around its object, resized: uint8 (height, width, 3).

    With `mask` also that square of it, bool (height, width): pixels that hold any of the object.
    """
    image = open_reference(picture)
    if mask is None:
        return middle_square(image.size).cut(image, height, width), None
    shown = open_mask(mask)
    if shown.size != image.size:
        raise ValueError(
            f"mask is {shown.width} x {shown.height}, its reference {image.width} x {image.height}; they must be equal"
        )
    box = shown.getbbox()
    if box is None:
        raise ValueError("mask is empty; it must be non-zero on the object")
    square = object_square(box, image.size)
    return square.cut(image, height, width), square.cut_mask(shown, height, width)


def open_reference(picture: Picture) -> Image.Image:
    """In RGB; grey of 16 bits is scaled to 8."""
    opened = open_picture(picture)
    if opened.mode.startswith("I;16"):
        opened = Image.fromarray((np.asarray(opened) // 257).astype(np.uint8))
    return opened.convert("RGB")


def open_mask(picture: Picture) -> Image.Image:
    """255 on the object, 0 elsewhere (mode L). The object is where a picture with transparency can be seen; else what
    is not black, or not dark where the format is lossy."""
    opened = open_picture(picture)
    if opened.has_transparency_data:
        alpha = opened.convert("RGBA").getchannel("A")
        if alpha.getextrema()[0] < 255:
            return alpha.point(lambda value: 255 if value else 0)
    least = 128 if opened.format in LOSSY else 1
    return opened.convert("L").point(lambda value: 255 if value >= least else 0)


def open_picture(picture: Picture) -> Image.Image:
    if isinstance(picture, Image.Image):
        return picture
    if isinstance(picture, np.ndarray):
        if picture.dtype not in (np.uint8, np.bool_):
            raise ValueError(
                f"picture is {picture.dtype} {picture.shape}; allowed: uint8 (H, W, 3), bool or uint8 (H, W)"
            )
        return Image.fromarray(picture.astype(np.uint8) * 255 if picture.dtype == np.bool_ else picture)
    # Cameras turn a picture by a note in its header.
    opened = read_picture(picture)
    turned = ImageOps.exif_transpose(opened)
    turned.format = opened.format
    return turned


def read_picture(source: str | Path | bytes, name: object = None) -> Image.Image:
    """A picture from outside, decoded: of FORMATS, at most MAX_PIXELS, its first frame if it has more.

    Errors call it `name`, or else by its path. Raises PictureError, and FileNotFoundError for a path that is none.
    """
    with _problems_named(named := source if name is None else name):
        return decoded(picture_header(source, named), named)


def picture_header(source: str | Path | bytes, name: object) -> Image.Image:
    """The picture with nothing of it decoded, for its size; raises as `read_picture` does."""
    with _problems_named(name):
        picture = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
        if picture.width * picture.height > MAX_PIXELS:
            raise PictureError(name, f"{picture.width} x {picture.height} pixels; at most {MAX_PIXELS} are decoded")
    return picture


def decoded(picture: Image.Image, name: object) -> Image.Image:
    with _problems_named(name):
        picture.load()
    return picture


@contextmanager
def _problems_named(name: object) -> Iterator[None]:
    try:
        yield
    except (PictureError, FileNotFoundError):
        raise
    except UnidentifiedImageError as error:
        raise PictureError(name, f"not a picture that can be read; allowed: {', '.join(FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise PictureError(name, f"far more than the {MAX_PIXELS} pixels that are decoded at most") from error
    except Exception as error:
        # Decoders raise anything from SyntaxError to zlib.error on a malformed file.
        raise PictureError(name, f"cannot be read: {type(error).__name__}: {error}") from error
