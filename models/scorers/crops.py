"""Square crops around an object, as the identity scores see it."""

import numpy as np

GREY = 128
"""Fill of what lies outside the frame, and of masked-out background."""


class EmptyMaskError(ValueError):
    """A mask without a single object pixel: there is nothing to crop to."""


def square_crop(image: np.ndarray, mask: np.ndarray, background: bool = True) -> np.ndarray:
    """The square around the bounding box of `mask`, its side the longer side of the box, centred on it.

    `image` uint8 (H, W, 3), `mask` bool (H, W); returns uint8 (S, S, 3). What lies outside the frame is grey; with
    `background` off, so is everything outside the mask. Raises EmptyMaskError rather than falling back to the whole
    image: a score of the background would pass for one of the object.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image of shape {image.shape} and type {image.dtype}; expected uint8 (H, W, 3)")
    if mask.shape != image.shape[:2]:
        raise ValueError(f"mask of shape {mask.shape} for an image of shape {image.shape}; expected the same H and W")
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        raise EmptyMaskError(f"the object mask of an image of {image.shape[1]} x {image.shape[0]} pixels is empty")
    if not background:
        image = np.where(mask[..., None], image, np.uint8(GREY))
    height, width = int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1
    side = max(height, width)
    top, left = int(rows[0]) - (side - height) // 2, int(columns[0]) - (side - width) // 2
    crop = np.full((side, side, 3), GREY, dtype=np.uint8)
    y0, y1 = max(top, 0), min(top + side, image.shape[0])
    x0, x1 = max(left, 0), min(left + side, image.shape[1])
    crop[y0 - top : y1 - top, x0 - left : x1 - left] = image[y0:y1, x0:x1]
    return crop


def without_object(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The image uint8 (H, W, 3) with grey where `mask` bool (H, W) has the object: its context alone."""
    return np.where(mask[..., None], np.uint8(GREY), image)
