"""Squares that pictures are cut to: the middle, or around an object that its mask shows."""

import random
from typing import NamedTuple

import numpy as np
from PIL import Image

MARGIN = 0.25
"""Around the object, on every side, as a share of its longer side: of references at inference."""
MARGINS = (0.1, 0.5)
"""The same of references in training, drawn uniformly. The release pads the object by 200 pixels or more, of pictures
of 1024: a third of an object of 600. A share means the same crop at every resolution; this range has that third and
`MARGIN` in it."""


class Square(NamedTuple):
    """In pixels of the picture."""

    left: int
    top: int
    side: int

    def cut(self, picture: Image.Image, height: int, width: int) -> np.ndarray:
        """This square of a picture, resized: uint8 (height, width, 3)."""
        cut = picture.convert("RGB").crop(self._box).resize((width, height), Image.Resampling.LANCZOS)
        return np.asarray(cut)

    def cut_mask(self, mask: Image.Image, height: int, width: int) -> np.ndarray:
        """This square of a mask of 0 and 255, bool (height, width): pixels that hold any of the object."""
        return np.asarray(mask.crop(self._box).resize((width, height), Image.Resampling.BOX)) > 0

    @property
    def _box(self) -> tuple[int, int, int, int]:
        return self.left, self.top, self.left + self.side, self.top + self.side


Box = tuple[int, int, int, int]
"""Left, top, right and bottom of an object, as PIL gives them: right and bottom are just outside."""


def middle_square(size: tuple[int, int]) -> Square:
    """The largest of a picture of `size` (width, height), in its middle."""
    side = min(size)
    return Square((size[0] - side) // 2, (size[1] - side) // 2, side)


def object_square(box: Box, size: tuple[int, int]) -> Square:
    """With the object in the middle and `MARGIN` around it, within the picture as far as it fits."""
    side = _side(box, size, MARGIN)
    centres = (box[0] + box[2]) // 2, (box[1] + box[3]) // 2
    left, top = (min(max(centre - side // 2, 0), whole - side) for centre, whole in zip(centres, size, strict=True))
    return Square(left, top, side)


def jittered_square(box: Box, size: tuple[int, int], rng: random.Random) -> Square:
    """With a margin from `MARGINS`, at a place that is uniform among those within the picture that hold all of `box`.

    Of an object that is longer than the picture's shorter side it holds as much as fits.
    """
    side = _side(box, size, rng.uniform(*MARGINS))
    left, top = (
        rng.randint(*sorted(min(max(edge, 0), whole - side) for edge in (far - side, near)))
        for near, far, whole in zip(box[:2], box[2:], size, strict=True)
    )
    return Square(left, top, side)


def _side(box: Box, size: tuple[int, int], margin: float) -> int:
    longer = max(box[2] - box[0], box[3] - box[1])
    return min(round(longer * (1 + 2 * margin)), *size)
