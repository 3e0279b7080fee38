"""Numbers of an ablation: means with bootstrap intervals over objects, and differences paired by set."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data.ids import seed_for

RESAMPLES = 2000
MEASURES = ("identity", "identity_masked", "colour", "quality", "clip_text")
"""Of a set: means over its images that show an object. `colour` is the affinity of colour histograms: no net takes part
in it."""


@dataclass(frozen=True)
class Run:
    """One row of the ablation under one seed: a value per set and measure, and what selection kept."""

    row: str
    seed: int
    values: Mapping[str, Mapping[str, float]]
    """Set id -> measure -> value; a set has no value of what could not be measured in it."""
    image_yield: float | None
    set_yield: float | None
    seconds: float | None
    found: float
    """Share of images in which an object was found."""

    def has(self, measure: str) -> bool:
        """Whether any set has a value of it."""
        return any(measure in values for values in self.values.values())

    def mean(self, measure: str) -> float:
        return float(np.mean([values[measure] for values in self.values.values() if measure in values]))


@dataclass(frozen=True)
class Interval:
    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def interval(values: Mapping[str, Sequence[float]], name: str) -> Interval:
    """Mean over all values and its 95 % bootstrap interval, resampling groups of values that belong together.

    `values`: object -> one value per set of it. The resampling is fixed by `name`. ValueError for no values.
    """
    if not values:
        raise ValueError(f"{name}: no values to average")
    sums, counts = (np.array([what(own) for own in values.values()], dtype=np.float64) for what in (sum, len))
    rng = np.random.default_rng(seed_for(0, "ablation", name))
    drawn = rng.integers(len(sums), size=(RESAMPLES, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(sums.sum() / counts.sum()), float(low), float(high))


def _by_object(values: Mapping[tuple[int, str], float]) -> dict[str, list[float]]:
    """Values by (seed, set id) as lists by object: sets of one object, of whatever seed, are not independent."""
    found: dict[str, list[float]] = defaultdict(list)
    for (_, key), value in sorted(values.items()):
        found[key.rpartition("-s")[0]].append(value)
    return found


def _of_row(runs: Sequence[Run], row: str, measure: str) -> dict[tuple[int, str], float]:
    return {
        (run.seed, key): own[measure]
        for run in runs
        if run.row == row
        for key, own in run.values.items()
        if measure in own
    }


def summary(runs: Sequence[Run], row: str, measure: str) -> Interval:
    """Over the sets of all seeds."""
    return interval(_by_object(_of_row(runs, row, measure)), f"{row}/{measure}")


def difference(runs: Sequence[Run], row: str, other: str, measure: str) -> Interval:
    """`row` minus `other`, paired by seed and set; sets that only one of them has are left out."""
    own, base = _of_row(runs, row, measure), _of_row(runs, other, measure)
    gaps = {place: own[place] - base[place] for place in own.keys() & base.keys()}
    return interval(_by_object(gaps), f"{row}-{other}/{measure}")


def share_of(shares: Sequence[float | None]) -> float | None:
    """Mean over the runs of a row that have one; None if none has."""
    known = [share for share in shares if share is not None]
    return float(np.mean(known)) if known else None
