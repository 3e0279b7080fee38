"""From scores of single images to the table of an evaluation.

Objects are the independent units: an object's images (prompts, seeds) are averaged first, means and standard errors
are over objects. The spread over seeds is the standard deviation of the whole table's mean from seed to seed.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from models.evaluation.record import METRICS

KINDS = ("background", "property")
ALL = "all"
DIGITS = 4
Scores = Sequence[Mapping[str, Any]]
"""One entry per image: row, kind, object, prompt, seed, and a number for each of METRICS."""


def aggregate(scores: Scores, rows: Sequence[str]) -> dict[str, dict[str, dict[str, Any]]]:
    """row -> kind (and "all") -> metric -> {mean, standard_error, seed_std}, with counts of objects and images.

    standard_error is None for fewer than 2 objects, seed_std for fewer than 2 seeds. Kinds without images are left out.
    """
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        table[row] = {}
        for kind in (*KINDS, ALL):
            chosen = [score for score in scores if score["row"] == row and kind in (score["kind"], ALL)]
            if chosen:
                cell = {metric: _summary(chosen, metric) for metric in METRICS}
                objects = len({score["object"] for score in chosen})
                table[row][kind] = {"objects": objects, "images": len(chosen), **cell}
    return table


def differences(scores: Scores, pairs: Sequence[tuple[str, str]]) -> dict[str, dict[str, dict[str, Any]]]:
    """kind (and "all") -> row pair "a - b" -> metric -> {mean, standard_error} of the difference, paired by object.

    Pairs without an object in common, and kinds without such a pair, are left out.
    """
    result = {}
    for kind in (*KINDS, ALL):
        chosen = [score for score in scores if kind in (score["kind"], ALL)]
        if found := _paired(chosen, pairs):
            result[kind] = found
    return result


def _paired(scores: Scores, pairs: Sequence[tuple[str, str]]) -> dict[str, dict[str, Any]]:
    result = {}
    for first, second in pairs:
        cells = {}
        for metric in METRICS:
            one, other = (_by(scores, metric, "object", row) for row in (first, second))
            gaps = np.array([one[name] - other[name] for name in sorted(one.keys() & other.keys())])
            if gaps.size:
                cells[metric] = {"mean": _rounded(gaps.mean()), "standard_error": _standard_error(gaps)}
        if cells:
            result[f"{first} - {second}"] = cells
    return result


def _summary(scores: Scores, metric: str) -> dict[str, float | None]:
    objects = np.array(list(_by(scores, metric, "object").values()))
    per_seed = [
        np.mean(list(_by([score for score in scores if score["seed"] == seed], metric, "object").values()))
        for seed in sorted({score["seed"] for score in scores})
    ]
    return {
        "mean": _rounded(objects.mean()),
        "standard_error": _standard_error(objects),
        "seed_std": _rounded(np.std(per_seed, ddof=1)) if len(per_seed) > 1 else None,
    }


def _by(scores: Scores, metric: str, unit: str, row: str | None = None) -> dict[Any, float]:
    """Mean of the images of each unit."""
    values: dict[Any, list[float]] = {}
    for score in scores:
        if row is None or score["row"] == row:
            values.setdefault(score[unit], []).append(score[metric])
    return {name: float(np.mean(own)) for name, own in values.items()}


def _standard_error(values: np.ndarray) -> float | None:
    return _rounded(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None


def _rounded(value: float) -> float:
    return round(float(value), DIGITS) + 0.0


def as_csv(table: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """One line per row, kind and metric."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["row", "kind", "metric", "mean", "standard_error", "seed_std", "objects", "images"])
    for row, kinds in table.items():
        for kind, cell in kinds.items():
            for metric in METRICS:
                own = cell[metric]
                spread = [own["mean"], own["standard_error"], own["seed_std"]]
                writer.writerow(
                    [row, kind, metric, *("" if x is None else x for x in spread), cell["objects"], cell["images"]]
                )
    return out.getvalue()


def as_markdown(
    table: Mapping[str, Mapping[str, Mapping[str, Any]]],
    gaps: Mapping[str, Mapping[str, Mapping[str, Any]]],
    backbones: Mapping[str, str],
    title: str,
) -> str:
    """Tables per kind of prompt, mean +- standard error over objects: rows, paired differences; then the backbones."""
    lines = [f"# {title}", ""]
    for kind in (*KINDS, ALL):
        own = {row: kinds[kind] for row, kinds in table.items() if kind in kinds}
        if not own:
            continue
        counts = next(iter(own.values()))
        lines += [
            f"## {kind} prompts" if kind != ALL else "## all prompts",
            "",
            f"{counts['objects']} objects, {counts['images']} images per row; mean +- standard error over objects "
            "(standard deviation over seeds)",
            "",
            f"| row | {' | '.join(METRICS)} |",
            f"|---|{'---|' * len(METRICS)}",
        ]
        lines += [f"| {row} | {' | '.join(_cell(cell[metric]) for metric in METRICS)} |" for row, cell in own.items()]
        lines.append("")
        if kind in gaps:
            lines += [
                "Differences, paired by object:",
                "",
                f"| rows | {' | '.join(METRICS)} |",
                f"|---|{'---|' * len(METRICS)}",
            ]
            lines += [
                f"| {pair} | {' | '.join(_cell(cells[metric]) for metric in METRICS)} |"
                for pair, cells in gaps[kind].items()
            ]
            lines.append("")
    lines += ["## backbones", "", *(f"- {metric}: {model}" for metric, model in backbones.items()), ""]
    return "\n".join(lines)


def _cell(summary: Mapping[str, float | None]) -> str:
    text = f"{summary['mean']:.3f}"
    if summary["standard_error"] is not None:
        text += f" +- {summary['standard_error']:.3f}"
    if summary.get("seed_std") is not None:
        text += f" ({summary['seed_std']:.3f})"
    return text
