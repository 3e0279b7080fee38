"""How fast a training goes: samples, operations, share of the device's peak. Times stay out of what is published."""

import logging
import time
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)


class Pace:
    """Says every `every` steps how training goes, and gives what it said as numbers.

    Rates are of the steps since the line before. The first step of a process, which warms up and is counted, is in
    none. `samples` are of a step of all processes; `flops`, of a step of one process, and `peak` (FLOP/s of a device)
    may be unknown.
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
        self.flops: int | None = None
        self._since: tuple[int, float] | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, float]:
        """To be called after every step with its metrics; empty between the lines."""
        done, now = row["step"] + 1, self.clock()
        if self._since is None:
            self._since = (done, now)
            return {}
        if (done % self.every and done != self.steps) or now <= self._since[1]:
            return {}
        rate = (done - self._since[0]) / (now - self._since[1])
        self._since = (done, now)
        said = {"samples_per_second": rate * self.samples}
        words = f"{rate * self.samples:.1f} samples/s"
        if self.flops is not None:
            said["tflops_per_device"] = rate * self.flops / 1e12
            words += f", {said['tflops_per_device']:.3g} TFLOP/s per device"
            if self.peak is not None:
                said["utilisation"] = rate * self.flops / self.peak
                words += f" ({said['utilisation']:.1%} of its peak)"
        left = (self.steps - done) / rate
        words += f", {left // 60:.0f} min {left % 60:02.0f} s left"
        log.info("train: step %d/%d, loss %.4f, %s", done, self.steps, row["loss"], words)
        return said
