"""From scores of single images to the table of an evaluation.

Objects are the independent units: an object's images (prompts, seeds) are averaged first; means, standard errors and
bootstrap intervals are over objects. The spread over seeds is the standard deviation of the whole table's mean from
seed to seed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from models.evaluation.intervals import interval
from models.evaluation.record import METRICS

KINDS = ("background", "property")
ALL = "all"
DIGITS = 4
PURPOSE = "evaluate"
Scores = Sequence[Mapping[str, Any]]
"""One entry per image: row, kind, object, prompt, seed, and a number or None for each of METRICS."""
Cell = dict[str, float | None]
"""Of one row, kind and metric: mean, standard_error, low and high (95 % interval), seed_std."""


def aggregate(scores: Scores, rows: Sequence[str]) -> dict[str, dict[str, dict[str, Any]]]:
    """row -> kind (and "all") -> metric -> Cell, with counts of objects and images.

    standard_error, low and high are None for fewer than 2 objects, seed_std for fewer than 2 seeds. Kinds without
    images are left out, and metrics that no image has a number for.
    """
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        table[row] = {}
        for kind in (*KINDS, ALL):
            chosen = [score for score in scores if score["row"] == row and kind in (score["kind"], ALL)]
            if chosen:
                cells = {metric: _summary(chosen, metric, f"{row}/{kind}/{metric}") for metric in _known(chosen)}
                objects = len({score["object"] for score in chosen})
                table[row][kind] = {"objects": objects, "images": len(chosen), **cells}
    return table


def differences(scores: Scores, pairs: Sequence[tuple[str, str]]) -> dict[str, dict[str, dict[str, Any]]]:
    """kind (and "all") -> row pair "a - b" -> metric -> Cell of the difference.

    Images of the same object, prompt and seed are paired, and the differences of an object averaged first. Pairs
    without an image in common, and kinds without such a pair, are left out.
    """
    result = {}
    for kind in (*KINDS, ALL):
        chosen = [score for score in scores if kind in (score["kind"], ALL)]
        if found := _paired(chosen, pairs, kind):
            result[kind] = found
    return result


def _paired(scores: Scores, pairs: Sequence[tuple[str, str]], kind: str) -> dict[str, dict[str, Any]]:
    result = {}
    for first, second in pairs:
        cells = {}
        for metric in _known(scores):
            one, other = (_by_shot(scores, metric, row) for row in (first, second))
            gaps: dict[str, list[float]] = {}
            for shot in sorted(one.keys() & other.keys()):
                gaps.setdefault(shot[0], []).append(one[shot] - other[shot])
            if gaps:
                cells[metric] = _over_objects(gaps, f"{first} - {second}/{kind}/{metric}")
        if cells:
            result[f"{first} - {second}"] = cells
    return result


def _known(scores: Scores) -> list[str]:
    """The metrics that at least one image has a number for."""
    return [metric for metric in METRICS if any(score[metric] is not None for score in scores)]


def _by_shot(scores: Scores, metric: str, row: str) -> dict[tuple[str, int, int], float]:
    return {
        (score["object"], score["prompt"], score["seed"]): score[metric]
        for score in scores
        if score["row"] == row and score[metric] is not None
    }


def _summary(scores: Scores, metric: str, name: str) -> Cell:
    seeds = sorted({score["seed"] for score in scores})
    per_seed = [_by_object([score for score in scores if score["seed"] == seed], metric) for seed in seeds]
    means = [np.mean([np.mean(own) for own in values.values()]) for values in per_seed if values]
    spread = _rounded(np.std(means, ddof=1)) if len(means) > 1 else None
    return {**_over_objects(_by_object(scores, metric), name), "seed_std": spread}


def _by_object(scores: Scores, metric: str) -> dict[str, list[float]]:
    values: dict[str, list[float]] = {}
    for score in scores:
        if score[metric] is not None:
            values.setdefault(score["object"], []).append(float(score[metric]))
    return values


def _over_objects(values: Mapping[str, Sequence[float]], name: str) -> Cell:
    """Objects count equally, however many images they have."""
    means = {key: [float(np.mean(own))] for key, own in sorted(values.items())}
    whole = np.array([mean for (mean,) in means.values()])
    cell: Cell = {"mean": _rounded(whole.mean()), "standard_error": None, "low": None, "high": None}
    if len(whole) > 1:
        spread = interval(means, PURPOSE, name)
        cell["standard_error"] = _rounded(np.std(whole, ddof=1) / np.sqrt(len(whole)))
        cell["low"], cell["high"] = _rounded(spread.low), _rounded(spread.high)
    return cell


def _rounded(value: float) -> float:
    return round(float(value), DIGITS) + 0.0
