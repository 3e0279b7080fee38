import numpy as np
import pytest
from PIL import Image

from data.duplicates import BITS
from models.scorers.frame import colour_affinity, cut_off_share, perceptual_hash


def square(top: int, left: int, side: int = 8, size: int = 32) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    mask[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = True
    return mask


@pytest.mark.parametrize(
    ("mask", "share"),
    [
        (square(10, 10), 0.0),
        (square(1, 1), 0.0),
        (square(0, 10), 8 / 28),
        (square(-4, 10), 8 / 20),
        (square(0, 0), 15 / 28),
        (np.ones((32, 32), bool), 1.0),
        (np.zeros((32, 32), bool), 0.0),
    ],
)
def test_the_share_of_the_outline_on_the_border(mask: np.ndarray, share: float) -> None:
    assert cut_off_share(mask) == pytest.approx(share)


def bits(one: str, other: str) -> int:
    return (int(one, 16) ^ int(other, 16)).bit_count()


def test_hashes_tell_pictures_apart_and_not_their_noise() -> None:
    rng = np.random.default_rng(0)
    small = [Image.fromarray(rng.integers(0, 255, (6, 6, 3), np.uint8)) for _ in range(8)]
    pictures = [np.asarray(image.resize((64, 64), Image.Resampling.BICUBIC)) for image in small]
    noisy = [np.clip(image + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8) for image in pictures]
    hashes = [perceptual_hash(image) for image in pictures]
    assert all(len(digits) == BITS // 4 for digits in hashes)
    moved = max(bits(one, perceptual_hash(image)) for one, image in zip(hashes, noisy, strict=True))
    apart = min(bits(hashes[i], hashes[j]) for i in range(8) for j in range(i))
    assert moved <= 4 < 12 < apart


def test_colour_affinity_looks_at_the_object_alone() -> None:
    masks = np.zeros((2, 8, 8), bool)
    masks[:, 2:6, 2:6] = True
    red, blue = np.array([200, 0, 0], np.uint8), np.array([0, 0, 200], np.uint8)
    images = np.zeros((2, 8, 8, 3), np.uint8)
    images[1] = 255
    images[:, 2:6, 2:6] = red
    assert colour_affinity(images, masks) == pytest.approx(1)
    images[1, 2:6, 2:6] = blue
    assert colour_affinity(images, masks) == 0
    images[1, 2:6, 2:4] = red
    assert colour_affinity(images, masks) == pytest.approx(0.5**0.5)
