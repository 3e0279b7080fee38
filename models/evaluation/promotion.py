"""Whether a new checkpoint may take the place of the current one: a test of non-inferiority on the same images.

Two models are compared on the `ours` rows of their evaluations: images of the same row, object, prompt and seed are
paired, so that both began from the same noise, and the differences of an object are averaged
(models/evaluation/tables.py). With 95 % bootstrap intervals over objects, the candidate is promoted if

1. geometric mean: the lower end of the interval of (candidate - current) is above -margin. The candidate carries the
   burden of proof: an evaluation too small to tell promotes nothing;
2. identity, text: neither has fallen by more than part_margin on average with an interval that ends below 0. The
   geometric mean can hide that one was traded for the other; this refuses a trade that is both large and certain;
3. objects: the candidate has images of at least min_objects of the other model's objects, and of at least the share
   min_common of them. An object that it failed on is in no pair, and would not count against it.

The rule is asked of two models: the current one, and the anchor, so that small losses, each within the margin, do not
add up. The anchor is the best model of those that led to the current one: the first, until one is promoted that is
better than the anchor with an interval of the geometric mean above 0, or that was chosen by hand; that one takes its
place. Whatever is promoted is then within one margin of the best, however many models lie between.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from configs.promotion import Promotion
from models.evaluation.tables import ALL, Cell, Scores, differences

WHOLE, PARTS = "geometric", ("identity", "text")
ROW = "ours"
CANDIDATE, CURRENT = "candidate", "current"


@dataclass(frozen=True)
class Comparison:
    """Paired differences of the candidate and another model: metric -> Cell, of so many objects and images."""

    objects: int
    other_objects: int
    """That the other model was evaluated on."""
    images: int
    gaps: Mapping[str, Cell]

    def as_json(self) -> dict[str, Any]:
        counts = {"objects": self.objects, "other_objects": self.other_objects, "images": self.images}
        return {**counts, "gaps": dict(self.gaps)}

    @property
    def better(self) -> bool:
        """Whether the candidate is certainly the better one."""
        low = self.gaps[WHOLE]["low"]
        return low is not None and low > 0


@dataclass(frozen=True)
class Verdict:
    promoted: bool
    reason: str


def compare(candidate: Scores, current: Scores) -> Comparison:
    """ValueError if no image of the two has row, object, prompt and seed in common."""
    both = {CANDIDATE: _ours(candidate), CURRENT: _ours(current)}
    common = both[CANDIDATE].keys() & both[CURRENT].keys()
    if not common:
        raise ValueError(f"no image of row {ROW} is of the same object, prompt and seed in both evaluations")
    scores = [
        {**both[model][shot], "row": model, "prompt": f"{shot[0]}.{shot[2]}"}
        for model in (CANDIDATE, CURRENT)
        for shot in sorted(common)
    ]
    (gaps,) = differences(scores, [(CANDIDATE, CURRENT)])[ALL].values()
    kept = {metric: gaps[metric] for metric in (WHOLE, *PARTS)}
    objects, others = ({shot[1] for shot in shots} for shots in (common, both[CURRENT]))
    return Comparison(len(objects), len(others), len(common), kept)


def _ours(scores: Scores) -> dict[tuple[str, str, int, int], Mapping[str, Any]]:
    """The images of the checkpoint under the recipe's guidance, by row, object, prompt and seed."""
    return {
        (score["row"], score["object"], score["prompt"], score["seed"]): score
        for score in scores
        if score["row"].rpartition("-")[0] == ROW
    }


def judge(found: Comparison, rule: Promotion, other: str = CURRENT) -> Verdict:
    """The rule at the head of this file; the reason has every number that it used, and calls the other model so."""
    if found.objects < rule.min_objects:
        return Verdict(False, f"{found.objects} objects in common, fewer than promotion.min_objects {rule.min_objects}")
    if found.objects / found.other_objects < rule.min_common:
        return Verdict(
            False,
            f"images of {found.objects} of the {found.other_objects} objects of {other}, less than the share "
            f"promotion.min_common {rule.min_common:g}; what failed on the others: syncd status",
        )
    against = []
    low = found.gaps[WHOLE]["low"]
    assert low is not None, "two objects have an interval"
    if low <= -rule.margin:
        against.append(f"a loss of {rule.margin:g} in the geometric mean (promotion.margin) is not ruled out")
    for part in PARTS:
        mean, high = found.gaps[part]["mean"], found.gaps[part]["high"]
        assert mean is not None and high is not None
        if high < 0 and mean < -rule.part_margin:
            against.append(f"{part} fell by more than {rule.part_margin:g} (promotion.part_margin)")
    numbers = ", ".join(f"{metric} {_gap_text(cell)}" for metric, cell in found.gaps.items())
    measured = f"candidate - {other}: {numbers}, {found.objects} objects, {found.images} images"
    return Verdict(not against, f"{'; '.join(against) if against else 'does not regress'}; {measured}")


def _gap_text(cell: Cell) -> str:
    return f"{cell['mean']:+.3f} [{cell['low']:+.3f}, {cell['high']:+.3f}]"
