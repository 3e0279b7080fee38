"""How fast a training goes: samples, operations, share of the device's peak. Times stay out of what is published."""

import logging
import time
from collections.abc import Callable
from statistics import fmean, linear_regression
from typing import Any

log = logging.getLogger(__name__)


class StepFlops:
    """Operations of any step of a process, from those of its first ones, which are counted.

    A step has `targets` samples and, as they are drawn, more or fewer references, and these cost less than targets: a
    U-Net reads them without gradients, and FLUX without text. The steps that were counted give the line from the number
    of references to operations; if all had the same number, each reference is taken to cost what a target does.
    """

    COUNTED = 4

    def __init__(self, targets: int) -> None:
        self.targets = targets
        self._references: list[int] = []
        self._flops: list[int] = []

    @property
    def unsure(self) -> bool:
        """Whether the next step should be counted."""
        return len(self._flops) < self.COUNTED

    def count(self, references: int, flops: int) -> None:
        """A step with so many references took so many operations."""
        self._references.append(references)
        self._flops.append(flops)

    def of(self, references: int) -> float:
        """Operations of a step with so many references; StatisticsError if no step was counted."""
        mean, flops = fmean(self._references), fmean(self._flops)
        each = flops / (self.targets + mean)
        if len(set(self._references)) > 1:
            each = linear_regression(self._references, self._flops).slope
        return flops + each * (references - mean)


class Pace:
    """Says every `every` steps how training goes, and gives what it said as numbers.

    Rates are of the steps since the line before. Steps that were counted are in none, and the first of a process, which
    warms up, is one of them. `samples` are of a step of all processes; `peak` (FLOP/s of a device) may be unknown.
    """

    def __init__(
        self,
        steps: int,
        samples: int,
        every: int,
        peak: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.steps, self.samples, self.every, self.peak, self.clock = steps, samples, every, peak, clock
        self._since = (0, 0.0)
        self._flops = 0.0

    def __call__(self, row: dict[str, Any], flops: float, counted: bool) -> dict[str, float]:
        """To be called after every step with its metrics, its operations on one device, and whether these were counted.

        Empty between the lines.
        """
        done, now = row["step"] + 1, self.clock()
        due = done % self.every == 0 or done == self.steps
        if counted:
            self._since, self._flops = (done, now), 0.0
            if due:
                log.info("train: step %d/%d, loss %.4f", done, self.steps, row["loss"])
            return {}
        self._flops += flops
        seconds = now - self._since[1]
        if not due or seconds <= 0:
            return {}
        rate, speed = (done - self._since[0]) / seconds, self._flops / seconds
        self._since, self._flops = (done, now), 0.0
        said = {"samples_per_second": rate * self.samples, "tflops_per_device": speed / 1e12}
        words = f"{rate * self.samples:.1f} samples/s, {said['tflops_per_device']:.3g} TFLOP/s per device"
        if self.peak is not None:
            said["utilisation"] = speed / self.peak
            words += f" ({said['utilisation']:.1%} of its peak)"
        left = (self.steps - done) / rate
        words += f", {left // 60:.0f} min {left % 60:02.0f} s left"
        log.info("train: step %d/%d, loss %.4f, %s", done, self.steps, row["loss"], words)
        return said
