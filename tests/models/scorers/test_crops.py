"""The square crop that identity scores see."""

import numpy as np
import pytest

from models.scorers.crops import GREY, EmptyMaskError, square_crop


def naive_crop(image, mask, background):
    ys = [y for y in range(mask.shape[0]) for x in range(mask.shape[1]) if mask[y, x]]
    xs = [x for y in range(mask.shape[0]) for x in range(mask.shape[1]) if mask[y, x]]
    height, width = max(ys) - min(ys) + 1, max(xs) - min(xs) + 1
    side = max(height, width)
    top, left = min(ys) - (side - height) // 2, min(xs) - (side - width) // 2
    crop = np.full((side, side, 3), GREY, np.uint8)
    for y in range(side):
        for x in range(side):
            row, column = top + y, left + x
            inside = 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1]
            if inside and (background or mask[row, column]):
                crop[y, x] = image[row, column]
    return crop


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("box", [(5, 9, 3, 5), (0, 20, 0, 3), (19, 20, 23, 24), (2, 5, 0, 24), (0, 20, 0, 24)])
def test_crop_equals_a_naive_one_also_where_it_leaves_the_frame(box, background):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
    mask = np.zeros((20, 24), bool)
    mask[box[0] : box[1], box[2] : box[3]] = rng.random((box[1] - box[0], box[3] - box[2])) < 0.7
    mask[box[0], box[2]] = mask[box[1] - 1, box[3] - 1] = True
    np.testing.assert_array_equal(square_crop(image, mask, background), naive_crop(image, mask, background))


def test_a_masked_crop_does_not_depend_on_the_background():
    rng = np.random.default_rng(1)
    mask = np.zeros((16, 16), bool)
    mask[4:10, 5:9] = True
    one, other = (rng.integers(0, 256, (16, 16, 3), dtype=np.uint8) for _ in range(2))
    other[mask] = one[mask]
    np.testing.assert_array_equal(square_crop(one, mask, False), square_crop(other, mask, False))
    assert (square_crop(one, mask, True) != square_crop(other, mask, True)).any()


def test_an_empty_mask_is_an_error_not_a_score_of_the_background():
    with pytest.raises(EmptyMaskError, match="8 x 6 pixels is empty"):
        square_crop(np.zeros((6, 8, 3), np.uint8), np.zeros((6, 8), bool))


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        (np.zeros((4, 4), np.uint8), np.ones((4, 4), bool)),
        (np.zeros((4, 4, 3), np.float32), np.ones((4, 4), bool)),
        (np.zeros((4, 4, 3), np.uint8), np.ones((4, 5), bool)),
    ],
)
def test_wrong_shapes_and_types_are_refused(image, mask):
    with pytest.raises(ValueError, match="expected"):
        square_crop(image, mask)
