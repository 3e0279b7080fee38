import csv
import io
import math
from typing import Any

import pytest

from models.evaluation.record import METRICS
from models.evaluation.tables import aggregate, as_csv, as_markdown, differences


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
    assert table["ours-1"]["property"]["identity"] == {"mean": 0.1, "standard_error": None, "seed_std": None}
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


def test_differences_are_paired_by_object() -> None:
    gaps = differences(SCORES, [("ours-1", "base"), ("ours-3", "base")])
    mug = (0.2 + 0.4 + 0.6 + 0.8 + 0.1) / 5 - 0.1
    chair = 0.8 - 0.5
    found = gaps["all"]["ours-1 - base"]["identity"]
    assert found["mean"] == pytest.approx((mug + chair) / 2, abs=1e-4)
    assert found["standard_error"] == pytest.approx(abs(mug - chair) / 2, abs=1e-4)
    assert "ours-3 - base" not in gaps["all"]
    assert set(gaps) == {"background", "all"}, "base has no property prompt to pair with"


def test_the_files_hold_the_table() -> None:
    table = aggregate(SCORES, ["base", "ours-1"])
    lines = list(csv.DictReader(io.StringIO(as_csv(table))))
    assert len(lines) == 5 * len(METRICS)
    chosen = next(line for line in lines if (line["row"], line["kind"], line["metric"]) == ("base", "all", "identity"))
    assert (chosen["mean"], chosen["seed_std"], chosen["objects"]) == ("0.3", "", "2")
    text = as_markdown(table, differences(SCORES, [("ours-1", "base")]), {"identity": "dino@123"}, "Evaluation")
    assert "## background prompts" in text and "## property prompts" in text and "## all prompts" in text
    assert "| base | 0.300 +- 0.200 | 0.500 +- 0.000 |" in text
    assert "| ours-1 - base | 0.310 +- 0.010 |" in text
    assert "- identity: dino@123" in text


def test_no_images_give_an_empty_table() -> None:
    table = aggregate([], ["base"])
    assert table == {"base": {}}
    assert len(as_csv(table).splitlines()) == 1
    assert "backbones" in as_markdown(table, {}, {}, "Evaluation")
