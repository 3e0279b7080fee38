"""Bootstrap intervals of means whose values come in groups that belong together: the images or sets of an object."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data.ids import seed_for

RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def interval(values: Mapping[str, Sequence[float]], purpose: str, name: str) -> Interval:
    """Mean over all values and its 95 % percentile bootstrap interval, resampling groups.

    `values`: object -> its values. The draws are fixed by `purpose` and `name`. ValueError for no values.
    """
    if not values:
        raise ValueError(f"{name}: no values to average")
    sums, counts = (np.array([what(own) for own in values.values()], dtype=np.float64) for what in (sum, len))
    rng = np.random.default_rng(seed_for(0, purpose, name))
    drawn = rng.integers(len(sums), size=(RESAMPLES, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(sums.sum() / counts.sum()), float(low), float(high))
