"""The rule of promotion: paired, with intervals, and the burden of proof on the candidate."""

import math
import random
from typing import Any

import pytest

from configs.promotion import Promotion
from models.evaluation.promotion import compare, judge
from models.evaluation.record import METRICS

RULE = Promotion(margin=0.02, part_margin=0.04, min_objects=5)


def scores(
    identity: float = 0.0, text: float = 0.0, noise: float = 0.0, objects: int = 12, row: str = "ours-3"
) -> list[dict[str, Any]]:
    """Two images of every object, hard and easy ones, with `identity` and `text` on top and noise of its own."""
    draw = random.Random(f"{identity} {text}")
    found = []
    for number in range(objects):
        for seed in (0, 1):
            level = 0.3 + 0.04 * number
            own = level + identity + draw.gauss(0, noise)
            told = 0.6 + text + draw.gauss(0, noise)
            numbers = dict.fromkeys(METRICS) | {"identity": own, "text": told, "geometric": math.sqrt(own * told)}
            found.append(
                {"object": f"o{number:02d}", "row": row, "kind": "property", "prompt": 0, "seed": seed} | numbers
            )
    return found


def test_equal_models_and_better_ones_are_promoted() -> None:
    assert judge(compare(scores(), scores()), RULE).promoted
    better = judge(compare(scores(0.1, noise=0.02), scores(noise=0.02)), RULE)
    assert better.promoted and better.reason.startswith("does not regress; candidate - current: geometric +0.0")


def test_objects_that_differ_by_far_more_than_the_models_do_not_hide_a_loss() -> None:
    verdict = judge(compare(scores(identity=-0.05), scores()), RULE)
    assert not verdict.promoted
    assert "a loss of 0.02 in the geometric mean (promotion.margin) is not ruled out" in verdict.reason


def test_an_evaluation_that_cannot_tell_promotes_nothing() -> None:
    found = compare(scores(0.01, noise=0.1, objects=6), scores(noise=0.1, objects=6))
    assert found.gaps["geometric"]["low"] < -RULE.margin
    assert not judge(found, RULE).promoted


def test_identity_is_not_bought_with_text() -> None:
    found = compare(scores(identity=0.15, text=-0.08), scores())
    assert found.gaps["geometric"]["low"] > 0
    verdict = judge(found, RULE)
    assert not verdict.promoted and verdict.reason.startswith("text fell by more than 0.04 (promotion.part_margin);")
    assert judge(found, Promotion(part_margin=0.1)).promoted


def test_too_few_objects_are_refused_whatever_they_say() -> None:
    verdict = judge(compare(scores(0.3, objects=4), scores(objects=4)), RULE)
    assert verdict.reason == "4 objects in common, fewer than promotion.min_objects 5"


def test_objects_that_the_candidate_failed_on_count() -> None:
    few = judge(compare(scores(objects=8), scores()), RULE)
    assert not few.promoted and few.reason.startswith(
        "images of 8 of the 12 objects of current, less than the share promotion.min_common 0.9; "
    )
    assert judge(compare(scores(objects=18), scores(objects=20)), RULE).promoted
    assert not judge(compare(scores(objects=17), scores(objects=20)), RULE).promoted
    assert judge(compare(scores(objects=20), scores(objects=6)), RULE).promoted


def test_better_is_what_lies_above_with_its_whole_interval() -> None:
    assert compare(scores(0.1, noise=0.02), scores(noise=0.02)).better
    assert not compare(scores(), scores()).better
    assert not compare(scores(0.01, noise=0.1, objects=6), scores(noise=0.1, objects=6)).better


def test_only_images_of_both_count_and_only_those_of_our_rows() -> None:
    extra = [{**score, "object": "new"} for score in scores(0.5, objects=1)]
    base = scores(-0.2, row="base")
    found = compare([*scores(), *extra, *base], [*scores(), *scores(row="base")])
    assert (found.objects, found.images) == (12, 24)
    assert found.gaps["identity"] == {"mean": 0.0, "standard_error": 0.0, "low": 0.0, "high": 0.0}
    with pytest.raises(ValueError, match="same object, prompt and seed in both"):
        compare(scores(), [{**score, "seed": 7} for score in scores()])


def test_rows_of_one_and_of_three_references_are_paired_apart() -> None:
    candidate = [*scores(0.1, row="ours-1"), *scores(-0.1, row="ours-3")]
    current = [*scores(row="ours-3"), *scores(row="ours-1")]
    found = compare(candidate, current)
    assert found.images == 48 and found.gaps["identity"]["mean"] == 0.0
