"""Graded image degradations: what the quality head learns to see, and what the negative prompt names."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

Degradation = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


def blur(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    radius = float(severity) * image.shape[0] / 22
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))


def downsample(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    size = image.shape[0]
    small = max(6, round(size / (1 + 5 * severity)))
    kind = Image.Resampling.BILINEAR if rng.random() < 0.5 else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(image).resize((small, small), Image.Resampling.BOX).resize((size, size), kind))


def noise(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    return _bytes(image + rng.normal(0, 80 * severity, image.shape))


def colour_cast(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    tint = rng.uniform(0, 255, 3)
    grey = 0.7 * severity
    return _bytes((1 - grey) * image + grey * tint)


def patch_shuffle(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Swap a share of the 8 x 8 pixel patches: broken shapes."""
    cells = image.shape[0] // 8
    patches = image.reshape(cells, 8, cells, 8, 3).swapaxes(1, 2).reshape(-1, 8, 8, 3).copy()
    chosen = rng.permutation(len(patches))[: max(2, round(0.8 * severity * len(patches)))]
    patches[chosen] = patches[rng.permutation(chosen)]
    return patches.reshape(cells, cells, 8, 8, 3).swapaxes(1, 2).reshape(image.shape)


def warp(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Displace pixels by a smooth random field: melted shapes, as an undertrained generator draws them."""
    size = image.shape[0]
    coarse = rng.normal(0, severity * size / 7, (2, 7, 7)).astype(np.float32)
    field = [np.asarray(Image.fromarray(plane).resize((size, size), Image.Resampling.BICUBIC)) for plane in coarse]
    rows, columns = np.mgrid[:size, :size]
    y = np.clip(np.rint(rows + field[0]), 0, size - 1).astype(int)
    x = np.clip(np.rint(columns + field[1]), 0, size - 1).astype(int)
    return image[y, x]


DEGRADATIONS: dict[str, Degradation] = {
    "blur": blur,
    "downsample": downsample,
    "noise": noise,
    "colour_cast": colour_cast,
    "patch_shuffle": patch_shuffle,
    "warp": warp,
}
"""Each takes uint8 (S, S, 3), a severity in (0, 1] and a generator."""


def degraded(images: np.ndarray, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A `share` of uint8 images (N, S, S, 3) with one degradation each, the others untouched.

    Returns the images, their severities (N,) in [0, 1] and the kinds (N,) as places in DEGRADATIONS, -1 untouched.
    """
    severities = np.where(rng.random(len(images)) < share, rng.uniform(0.05, 1.0, len(images)), 0.0)
    kinds = np.where(severities > 0, rng.integers(len(DEGRADATIONS), size=len(images)), -1)
    apply = list(DEGRADATIONS.values())
    worse = [
        image if kind < 0 else apply[kind](image, severity, rng)
        for image, severity, kind in zip(images, severities, kinds, strict=True)
    ]
    return np.stack(worse), severities, kinds


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
