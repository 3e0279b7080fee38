"""DVCLive metrics and plots of a training run, written without a look at git or DVC."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dvclive import Live

NAMES = ("loss", "gradient_norm", "step_size")


class _DetachedLive(Live):
    """Live as a plain writer of files.

    Its own start opens the surrounding DVC repository, makes one in any git repository that has none, and asks git for
    the commit: not for code that runs inside a DVC stage.
    """

    def _init_dvc(self) -> None:
        self._dvc_file = "dvc.yaml"

    def _init_studio(self) -> None:
        self._studio_events_to_skip |= {"start", "data", "done"}


class TrainingLog:
    """Every `every`-th row and the last one of `steps`, as `metrics.json` and `plots/metrics/train/NAME.tsv`.

    Equal rows give equal bytes: no timestamps. What was in the folder before is deleted.
    """

    def __init__(self, folder: Path, every: int, steps: int) -> None:
        self.every, self.steps = every, steps
        self.live = _DetachedLive(str(folder), save_dvc_exp=False, dvcyaml=None)

    def __call__(self, row: dict[str, Any]) -> None:
        step = row["step"]
        if step % self.every and step + 1 != self.steps:
            return
        self.live.step = step
        for name in NAMES:
            self.live.log_metric(f"train/{name}", row[name])
        self.live.next_step()

    def close(self) -> None:
        self.live.end()


def write_log(rows: Iterable[dict[str, Any]], folder: Path, every: int, steps: int) -> None:
    """The whole log of a finished run."""
    log = TrainingLog(folder, every, steps)
    for row in rows:
        log(row)
    log.close()
