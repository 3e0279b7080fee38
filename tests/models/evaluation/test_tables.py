import math
from typing import Any

import pytest

from models.evaluation.record import METRICS
from models.evaluation.tables import aggregate, differences


def score(row: str, kind: str, name: str, seed: int, identity: float, prompt: int = 0, **more: float) -> dict[str, Any]:
    values = dict.fromkeys(METRICS, 0.5) | {"identity": identity} | more
    return {"row": row, "kind": kind, "object": name, "prompt": prompt, "seed": seed, **values}


SCORES = [
    # mug has two images per seed, chair one: objects count equally, not images
    score("ours-1", "background", "mug", 0, 0.2, 0),
    score("ours-1", "background", "mug", 0, 0.4, 1),
    score("ours-1", "background", "chair", 0, 0.9, 0),
    score("ours-1", "background", "mug", 1, 0.6, 0),
    score("ours-1", "background", "mug", 1, 0.8, 1),
    score("ours-1", "background", "chair", 1, 0.7, 0),
    score("ours-1", "property", "mug", 0, 0.1, 2),
    score("base", "background", "mug", 0, 0.1, 0),
    score("base", "background", "chair", 0, 0.5, 0),
]


def test_objects_are_averaged_first_and_errors_are_over_objects() -> None:
    cell = aggregate(SCORES, ["base", "ours-1"])["ours-1"]["background"]
    mug, chair = (0.2 + 0.4 + 0.6 + 0.8) / 4, (0.9 + 0.7) / 2
    assert (cell["objects"], cell["images"]) == (2, 6)
    assert cell["identity"]["mean"] == pytest.approx((mug + chair) / 2)
    deviation = math.sqrt(((mug - 0.65) ** 2 + (chair - 0.65) ** 2) / 1)
    assert cell["identity"]["standard_error"] == pytest.approx(deviation / math.sqrt(2), abs=1e-4)


def test_the_spread_over_seeds_is_of_the_mean_over_objects() -> None:
    cell = aggregate(SCORES, ["ours-1"])["ours-1"]["background"]
    first, second = ((0.2 + 0.4) / 2 + 0.9) / 2, ((0.6 + 0.8) / 2 + 0.7) / 2
    assert cell["identity"]["seed_std"] == pytest.approx(abs(first - second) / math.sqrt(2), abs=1e-4)


def test_kinds_are_apart_and_together_and_missing_spreads_are_none() -> None:
    table = aggregate(SCORES, ["base", "ours-1"])
    assert set(table["ours-1"]) == {"background", "property", "all"}
    assert set(table["base"]) == {"background", "all"}
    cell = table["ours-1"]["property"]["identity"]
    assert cell == {"mean": 0.1, "standard_error": None, "low": None, "high": None, "seed_std": None}
    assert table["ours-1"]["all"]["images"] == 7
    assert table["base"]["all"]["identity"]["mean"] == pytest.approx(0.3)


def test_the_geometric_score_is_the_mean_of_per_image_values_not_the_mean_of_the_means() -> None:
    scores = [
        score("ours-1", "background", "mug", 0, 1.0, 0, text=0.0, geometric=0.0),
        score("ours-1", "background", "mug", 0, 0.0, 1, text=1.0, geometric=0.0),
    ]
    cell = aggregate(scores, ["ours-1"])["ours-1"]["all"]
    assert cell["geometric"]["mean"] == 0.0
    assert cell["identity"]["mean"] == cell["text"]["mean"] == 0.5


def test_differences_are_of_the_same_object_prompt_and_seed() -> None:
    gaps = differences(SCORES, [("ours-1", "base"), ("ours-3", "base")])
    mug, chair = 0.2 - 0.1, 0.9 - 0.5
    found = gaps["all"]["ours-1 - base"]["identity"]
    assert found["mean"] == pytest.approx((mug + chair) / 2, abs=1e-4)
    assert found["standard_error"] == pytest.approx(abs(mug - chair) / 2, abs=1e-4)
    assert (found["low"], found["high"]) == pytest.approx((mug, chair), abs=1e-4)
    assert "ours-3 - base" not in gaps["all"]
    assert set(gaps) == {"background", "all"}, "base has no property prompt to pair with"


def test_pairing_sees_a_constant_gain_that_the_spread_of_objects_hides() -> None:
    rows = [
        score(row, "background", f"object-{place}", 0, place / 10 + gain)
        for place in range(10)
        for row, gain in (("base", 0.0), ("ours-1", 0.05))
    ]
    cells = aggregate(rows, ["base", "ours-1"])
    assert cells["base"]["all"]["identity"]["high"] > cells["ours-1"]["all"]["identity"]["low"]
    gap = differences(rows, [("ours-1", "base")])["all"]["ours-1 - base"]["identity"]
    assert (gap["low"], gap["mean"], gap["high"]) == (0.05, 0.05, 0.05)


def test_intervals_are_over_objects_not_images() -> None:
    rows = [
        score("base", "background", name, 0, value, p) for name, value in (("a", 0.0), ("b", 1.0)) for p in range(9)
    ]
    cell = aggregate(rows, ["base"])["base"]["all"]["identity"]
    assert (cell["low"], cell["mean"], cell["high"]) == (0.0, 0.5, 1.0)


def test_numbers_that_some_images_lack_are_averaged_over_the_others() -> None:
    rows = [score("base", "background", "a", 0, 0.5, 0), score("base", "background", "a", 0, 0.5, 1)]
    rows[0]["copy_paste"] = 0.25
    for row in rows:
        row["dino"] = None
    rows[1]["copy_paste"] = None
    cell = aggregate(rows, ["base"])["base"]["all"]
    assert cell["copy_paste"]["mean"] == 0.25
    assert "dino" not in cell
