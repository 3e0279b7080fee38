"""What one picture says by itself, without a model: colours, where the object lies in the frame, perceptual hash."""

from collections.abc import Sequence
from itertools import combinations

import imagehash
import numpy as np
from PIL import Image
from scipy.ndimage import binary_erosion

COLOUR_BINS = 8


def saturation(image: np.ndarray) -> float:
    """Mean HSV saturation of a uint8 (H, W, 3) image: (max - min) / max per pixel, 0 for black."""
    high, low = image.max(axis=2).astype(np.float64), image.min(axis=2)
    return float(np.mean((high - low) / np.maximum(high, 1)))


def clipped_share(image: np.ndarray) -> float:
    """Share of the values of a uint8 (H, W, 3) image that are 0 or 255."""
    return float(np.mean((image == 0) | (image == 255)))


def cut_off_share(mask: np.ndarray) -> float:
    """Share of the outline of a bool (H, W) mask that lies on the border of the frame: 0 for an object that is wholly
    in the picture or not there at all, towards 1 for one that fills it."""
    outline = mask & ~binary_erosion(mask, border_value=0)
    border = np.ones_like(mask)
    border[1:-1, 1:-1] = False
    return float((outline & border).sum() / max(1, outline.sum()))


def colour_affinity(images: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> float:
    """Mean Bhattacharyya coefficient of the objects' colour histograms, over every two images of a set: 1 for equal
    colours. Images uint8 (H, W, 3), masks bool (H, W)."""
    found = [_histogram(image, mask) for image, mask in zip(images, masks, strict=True)]
    return float(np.mean([np.sqrt(one * other).sum() for one, other in combinations(found, 2)]))


def _histogram(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Shares of 8 x 8 x 8 RGB cells among the object's pixels."""
    cells = np.ravel_multi_index(tuple((image[mask] // (256 // COLOUR_BINS)).T), (COLOUR_BINS,) * 3)
    return np.bincount(cells, minlength=COLOUR_BINS**3) / max(1, len(cells))


def perceptual_hash(image: np.ndarray) -> str:
    """pHash of a uint8 (H, W, 3) image, 64 bits as 16 hexadecimal digits: pictures alike differ in few bits."""
    return str(imagehash.phash(Image.fromarray(image), hash_size=8))
