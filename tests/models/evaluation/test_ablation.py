import numpy as np
import pytest

from models.evaluation.ablation import MEASURES, Run, difference, interval, share_of, summary


def run(row: str, seed: int, values: dict[str, float], kept: float = 0.5) -> Run:
    per_set = {f"{key}-s0": dict.fromkeys(MEASURES, value) for key, value in values.items()}
    return Run(row, seed, per_set, image_yield=kept, set_yield=kept / 2, seconds=1.0, found=1.0)


RUNS = [
    run("full", 0, {"a": 0.8, "b": 0.6}, 0.4),
    run("full", 1, {"a": 0.7}, 0.6),
    run("less", 0, {"a": 0.5, "c": 0.1}),
    run("less", 1, {"a": 0.6, "b": 0.9}),
]


def test_means_are_over_sets_of_all_seeds_and_the_same_every_time() -> None:
    found = summary(RUNS, "full", "identity")
    assert found.mean == pytest.approx(0.7) and 0.599 < found.low < 0.7 < found.high < 0.801
    assert summary(RUNS, "full", "identity") == found
    assert RUNS[0].mean("colour") == pytest.approx(0.7)
    assert share_of([run.image_yield for run in RUNS if run.row == "full"]) == 0.5
    assert share_of([None, 0.2]) == 0.2 and share_of([None]) is None


def test_differences_pair_sets_of_the_same_seed_and_leave_out_the_others() -> None:
    found = difference(RUNS, "less", "full", "identity")
    assert found.mean == pytest.approx((-0.3 - 0.1) / 2)
    assert (found.low, found.high) == pytest.approx((-0.2, -0.2)), "both are of object a"


def test_a_set_without_a_value_is_left_out() -> None:
    seen, unseen = run("full", 0, {"a": 0.8}), Run("full", 1, {"b-s0": {"quality": 5.0}}, None, None, None, 0.1)
    assert summary([seen, unseen], "full", "identity").mean == pytest.approx(0.8)
    assert unseen.has("quality") and not unseen.has("identity")


def test_the_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for draw in range(100):
        found = interval({str(place): [value] for place, value in enumerate(rng.normal(0.3, 0.2, 60))}, f"draw {draw}")
        hits += found.low <= 0.3 <= found.high
    assert 85 <= hits <= 100


def test_nothing_to_average_is_an_error() -> None:
    with pytest.raises(ValueError, match="no values to average"):
        difference(RUNS, "full", "nobody", "identity")


def test_sets_of_one_object_are_drawn_together() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, 40)
    alone = interval({str(place): [value] for place, value in enumerate(values)}, "x")
    thrice = interval({str(place): [value] * 3 for place, value in enumerate(values)}, "x")
    assert thrice.mean == pytest.approx(alone.mean)
    assert thrice.high - thrice.low == pytest.approx(alone.high - alone.low), "three copies are no more evidence"
