"""Known answers of the colour affinity and of the tables of benchmarks/identity.py."""

import numpy as np
import pytest

from benchmarks.identity import MEASURES, VARIANTS, affinity, histogram, interval, tables


def test_affinity_looks_at_the_object_alone() -> None:
    masks = np.zeros((2, 8, 8), bool)
    masks[:, 2:6, 2:6] = True
    red, blue = np.array([200, 0, 0], np.uint8), np.array([0, 0, 200], np.uint8)
    images = np.zeros((2, 8, 8, 3), np.uint8)
    images[1] = 255
    images[:, 2:6, 2:6] = red
    assert affinity(images, masks) == pytest.approx(1)
    images[1, 2:6, 2:6] = blue
    assert affinity(images, masks) == 0
    images[1, 2:6, 2:4] = red
    assert affinity(images, masks) == pytest.approx(0.5**0.5)


def test_histogram_sums_to_one() -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    assert histogram(image, np.ones((16, 16), bool)).sum() == pytest.approx(1)


def test_interval_holds_the_mean_and_narrows() -> None:
    gaps = np.random.default_rng(0).normal(1, 1, 400)
    low, high = interval(gaps, 0)
    assert low < gaps.mean() < high
    wide_low, wide_high = interval(gaps[:40], 0)
    assert high - low < wide_high - wide_low


def test_tables_pair_the_sets_of_a_seed() -> None:
    rng = np.random.default_rng(0)
    gains = dict.fromkeys(VARIANTS, 0.0) | {"full": 0.3, "no warping": 0.2, "renders": 0.5}
    by_seed = {}
    for seed in (0, 1):
        base = rng.random(20)
        by_seed[seed] = {name: {measure: base + gain for measure in MEASURES} for name, gain in gains.items()}
    text = tables(by_seed)
    assert "full - (no warping) | +0.100 | +0.100 | +0.100 [+0.100, +0.100]" in text
    assert "no warping - (no warping, no MSA) | +0.200 | +0.200 | +0.200 [+0.200, +0.200]" in text
    assert text.count("| renders |") == len(MEASURES)
