"""Depth: 16-bit files within their error bound, the condition by its definition."""

import io

import numpy as np
import pytest
from PIL import Image

from data.depth import decode_depth16, encode_depth16, inverse_depth_condition
from data.images import encode_png


def some_depth(low: float, high: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    depth = rng.uniform(low, high, (40, 30)).astype(np.float32)
    depth[rng.random(depth.shape) < 0.4] = 0
    return depth


@pytest.mark.parametrize(("low", "high"), [(1.6, 3.4), (2.0, 2.0001), (0.01, 900.0)])
def test_round_trip_stays_within_the_stated_error(low: float, high: float) -> None:
    depth = some_depth(low, high)
    surface = depth > 0
    decoded = decode_depth16(*encode_depth16(depth))
    bound = (depth[surface].max() - depth[surface].min()) / 131068 + 1e-6 * high
    assert np.abs(decoded - depth)[surface].max() <= bound
    assert decoded.dtype == np.float32


def test_no_surface_stays_no_surface_and_the_nearest_point_stays_surface() -> None:
    depth = some_depth(1.0, 2.0)
    assert ((decode_depth16(*encode_depth16(depth)) > 0) == (depth > 0)).all()


@pytest.mark.parametrize("value", [0.0, 2.5])
def test_constant_depth_is_exact(value: float) -> None:
    depth = np.full((5, 6), value, np.float32)
    assert (decode_depth16(*encode_depth16(depth)) == depth).all()


def test_the_file_is_a_16_bit_png_that_the_record_s_formula_reads() -> None:
    depth = some_depth(1.0, 2.0)
    data, near, far = encode_depth16(depth)
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "PNG"
        values = np.asarray(image).astype(np.float64)
    assert values.max() == 65535
    by_formula = np.where(values > 0, near + values / 65535 * (far - near), 0)
    assert np.allclose(by_formula, depth, atol=1e-4)


def test_equal_depth_gives_equal_bytes() -> None:
    assert encode_depth16(some_depth(1, 2)) == encode_depth16(some_depth(1, 2))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_depth_that_is_no_depth_is_refused(bad: float) -> None:
    depth = some_depth(1.0, 2.0)
    depth[3, 3] = bad
    with pytest.raises(ValueError, match="non-finite"):
        encode_depth16(depth)


def test_an_8_bit_file_is_not_taken_for_depth() -> None:
    with pytest.raises(ValueError, match="16-bit"):
        decode_depth16(encode_png(np.zeros((4, 4), np.uint8)), 1.0, 2.0)


def test_the_condition_is_inverse_depth_min_max_over_the_object() -> None:
    depth = np.array([[2.0, 4.0, 0.0], [1.0, 8.0, 0.0]], np.float32)
    condition = inverse_depth_condition(depth, depth > 0)
    expected = [[(1 / 2 - 1 / 8) / (1 - 1 / 8), (1 / 4 - 1 / 8) / (1 - 1 / 8), 0], [1, 0, 0]]
    assert np.allclose(condition, expected) and condition.dtype == np.float32


def test_what_lies_outside_the_mask_neither_counts_nor_shows() -> None:
    depth = np.array([[2.0, 4.0, 0.5]], np.float32)
    condition = inverse_depth_condition(depth, np.array([[True, True, False]]))
    assert condition.tolist() == [[1.0, 0.0, 0.0]]


def test_flat_and_absent_objects() -> None:
    flat = np.full((2, 2), 3.0, np.float32)
    assert (inverse_depth_condition(flat, flat > 0) == 1).all()
    assert (inverse_depth_condition(flat, np.zeros((2, 2), bool)) == 0).all()


def test_a_mask_that_disagrees_with_depth_is_refused() -> None:
    with pytest.raises(ValueError, match="1 object pixels have no depth"):
        inverse_depth_condition(np.array([[0.0, 2.0]], np.float32), np.array([[True, True]]))
