import numpy as np
import pytest

from models.evaluation.intervals import interval


def test_the_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for draw in range(100):
        found = interval(
            {str(place): [value] for place, value in enumerate(rng.normal(0.3, 0.2, 60))}, "test", f"draw {draw}"
        )
        hits += found.low <= 0.3 <= found.high
    assert 85 <= hits <= 100


def test_groups_are_drawn_as_a_whole_and_every_value_counts_once() -> None:
    alike = interval({"mug": [0.0] * 50, "chair": [1.0] * 50}, "test", "two objects")
    assert (alike.mean, alike.low, alike.high) == (0.5, 0.0, 1.0), "100 values, but only two objects"
    assert interval({"mug": [0.0, 0.0, 0.0], "chair": [1.0]}, "test", "unequal").mean == 0.25


def test_equal_names_draw_alike_and_others_do_not() -> None:
    values = {str(place): [value] for place, value in enumerate(np.random.default_rng(1).random(9))}
    assert interval(values, "test", "a") == interval(values, "test", "a")
    assert interval(values, "test", "a") != interval(values, "test", "b")


def test_one_object_has_no_spread() -> None:
    found = interval({"mug": [0.25, 0.75]}, "test", "one")
    assert (found.low, found.mean, found.high) == (0.5, 0.5, 0.5)


def test_no_values_are_an_error() -> None:
    with pytest.raises(ValueError, match="nothing: no values to average"):
        interval({}, "test", "nothing")


def test_sets_of_one_object_are_drawn_together() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, 40)
    alone = interval({str(place): [value] for place, value in enumerate(values)}, "test", "x")
    thrice = interval({str(place): [value] * 3 for place, value in enumerate(values)}, "test", "x")
    assert thrice.mean == pytest.approx(alone.mean)
    assert thrice.high - thrice.low == pytest.approx(alone.high - alone.low), "three copies are no more evidence"
