"""Squares around objects: within the picture, with the object in them, the same for the same seed."""

import random

import numpy as np
import pytest
from PIL import Image

from data.squares import MARGINS, jittered_square, middle_square, object_square

SIZE = (100, 80)


def holds(square: tuple[int, int, int], box: tuple[int, int, int, int]) -> bool:
    left, top, side = square
    return left <= box[0] and top <= box[1] and box[2] <= left + side and box[3] <= top + side


@pytest.mark.parametrize(
    "box", [(40, 30, 60, 45), (0, 0, 10, 10), (90, 70, 100, 80), (0, 30, 80, 50), (50, 40, 51, 41)]
)
def test_a_jittered_square_lies_in_the_picture_and_holds_the_object(box: tuple[int, int, int, int]) -> None:
    longer = max(box[2] - box[0], box[3] - box[1])
    for seed in range(200):
        square = jittered_square(box, SIZE, random.Random(seed))
        assert holds(square, box)
        assert holds((0, 0, 100), (square.left, square.top, square.left + square.side, square.top + square.side))
        low, high = (min(round(longer * (1 + 2 * margin)), 80) for margin in MARGINS)
        assert low <= square.side <= high
        assert square == jittered_square(box, SIZE, random.Random(seed))


def test_margin_and_place_cover_their_ranges() -> None:
    box = (40, 30, 60, 50)
    squares = [jittered_square(box, SIZE, random.Random(seed)) for seed in range(2000)]
    assert {square.side for square in squares} == set(range(24, 41))
    before = np.array([(40 - square.left) / (square.side - 20) for square in squares])
    assert before.min() == 0 and before.max() == 1, "anywhere that holds the object"
    assert np.mean(before) == pytest.approx(0.5, abs=0.03)
    shares = [(square.side / 20 - 1) / 2 for square in squares]
    assert np.mean(shares) == pytest.approx(np.mean(MARGINS), abs=0.01)


def test_of_an_object_longer_than_the_picture_is_high_as_much_is_shown_as_fits() -> None:
    for seed in range(50):
        square = jittered_square((5, 10, 95, 20), SIZE, random.Random(seed))
        assert square.side == 80 and square.top == 0 and 5 <= square.left <= 15


def test_at_inference_the_object_is_in_the_middle_as_far_as_the_picture_goes() -> None:
    assert object_square((40, 30, 60, 50), SIZE) == (35, 25, 30)
    assert object_square((0, 0, 20, 20), SIZE) == (0, 0, 30)
    assert middle_square(SIZE) == (10, 0, 80)


def test_the_mask_is_cut_as_the_picture_is() -> None:
    rng = np.random.default_rng(0)
    mask = np.zeros((80, 100), bool)
    mask[31:52, 44:57] = True
    picture = np.where(mask[..., None], 255, rng.integers(0, 100, (80, 100, 3))).astype(np.uint8)
    square = jittered_square((44, 31, 57, 52), SIZE, random.Random(1))
    side = square.side
    shown = Image.fromarray(mask.astype(np.uint8) * 255)
    np.testing.assert_array_equal(
        square.cut_mask(shown, side, side), (square.cut(Image.fromarray(picture), side, side) == 255).all(axis=2)
    )
