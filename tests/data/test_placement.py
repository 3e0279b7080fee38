"""Placement stays in the frame and on the ground; view sets are the least overlapping that correspond."""

from itertools import combinations

import numpy as np
import pytest

from data.placement import GROUND_BAND, Placement, choose_view_sets, draw_placement


def box_mask(height: int, width: int, top: int, left: int, tall: int, wide: int) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[top : top + tall, left : left + wide] = True
    return mask


def placed_box(mask: np.ndarray, placement: Placement) -> tuple[float, float, float, float]:
    """Edges left, top, right, bottom of the placed box, by transforming its corners."""
    height, width = mask.shape
    rows, columns = np.nonzero(mask)
    scale = placement.scale
    return (
        (columns.min() - width / 2) * scale + width / 2 + placement.dx,
        (rows.min() - height / 2) * scale + height / 2 + placement.dy,
        (columns.max() + 1 - width / 2) * scale + width / 2 + placement.dx,
        (rows.max() + 1 - height / 2) * scale + height / 2 + placement.dy,
    )


@pytest.mark.parametrize(("side", "share"), [(18, "below"), (19, "above")])
def test_objects_below_the_smallest_area_are_rejected(side: int, share: str) -> None:
    # 18 x 18 of 60 x 60 is 9 %, 19 x 19 is 10.03 %.
    placement = draw_placement(box_mask(60, 60, 20, 20, side, side), np.random.default_rng(0), min_area=0.10)
    assert (placement is None) == (share == "below")


@pytest.mark.parametrize(("side", "lowest"), [(20, 0.9), (40, 0.7)])
def test_scale_depends_on_area(side: int, lowest: float) -> None:
    # 20 x 20 of 60 x 60 is 11 %, below 20 %; 40 x 40 is 44 %.
    mask = box_mask(60, 60, 5, 5, side, side)
    scales = [draw_placement(mask, np.random.default_rng(seed)).scale for seed in range(300)]
    assert lowest <= min(scales) < lowest + 0.01 and 0.94 < max(scales) <= 0.95


def test_the_box_stays_inside_the_frame_and_near_its_lower_edge() -> None:
    mask = box_mask(64, 96, 2, 8, 50, 40)
    lefts = []
    for seed in range(300):
        left, top, right, bottom = placed_box(mask, draw_placement(mask, np.random.default_rng(seed)))
        assert left >= -1e-9 and top >= -1e-9 and right <= 96 + 1e-9 and bottom <= 64 + 1e-9
        assert bottom >= 64 - GROUND_BAND * 64 - 1e-9
        lefts.append(left / (96 - (right - left)))
    counts, _ = np.histogram(lefts, bins=3, range=(0, 1))
    assert counts.min() > 70


def test_an_object_as_tall_as_the_frame_is_not_pushed_out_of_it() -> None:
    mask = box_mask(64, 64, 0, 20, 64, 25)
    for seed in range(50):
        _, top, _, bottom = placed_box(mask, draw_placement(mask, np.random.default_rng(seed)))
        assert top >= -1e-9 and bottom <= 64 + 1e-9


def test_equal_seeds_place_equally() -> None:
    mask = box_mask(64, 64, 10, 10, 30, 30)
    assert draw_placement(mask, np.random.default_rng(5)) == draw_placement(mask, np.random.default_rng(5))


def test_an_empty_mask_is_rejected_even_without_a_limit() -> None:
    assert draw_placement(np.zeros((8, 8), bool), np.random.default_rng(0), min_area=0.0) is None


def naive_sets(overlap: np.ndarray, size: int, least: float) -> list[tuple[int, ...]]:
    found = []
    for subset in combinations(range(len(overlap)), size):
        pairs = [overlap[i, j] for i, j in combinations(subset, 2)]
        if min(pairs) >= least:
            found.append((round(sum(pairs), 12), subset))
    return [subset for _, subset in sorted(found)]


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("seed", range(8))
def test_sets_are_those_of_a_full_search_in_order_of_diversity(size: int, seed: int) -> None:
    # Rounded overlaps bring ties.
    overlap = np.random.default_rng(seed).uniform(0, 0.4, (8, 8)).round(2)
    overlap = np.minimum(overlap, overlap.T)
    assert choose_view_sets(overlap, size, 0.1, max_sets=100) == naive_sets(overlap, size, 0.1)


def test_no_subset_is_used_twice_and_the_limit_holds() -> None:
    sets = choose_view_sets(np.full((6, 6), 0.3), 3, 0.1, max_sets=5)
    assert len(sets) == 5 == len(set(sets))


def test_one_pair_below_the_limit_rules_a_set_out() -> None:
    overlap = np.array([[1, 0.5, 0.5], [0.5, 1, 0.09], [0.5, 0.09, 1]])
    assert choose_view_sets(overlap, 3, 0.10) == []
    assert choose_view_sets(overlap, 3, 0.09) == [(0, 1, 2)]


def test_sets_of_one_are_refused() -> None:
    with pytest.raises(ValueError, match="size is 1"):
        choose_view_sets(np.eye(3), 1)
