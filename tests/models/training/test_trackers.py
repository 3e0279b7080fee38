import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from accelerate import tracking
from accelerate.tracking import GeneralTracker
from accelerate.utils import LoggerType

from configs.training import Train
from data.reader import ShardReader
from data.shards import load_index
from models.training import trackers
from models.training.features import FeatureStore
from models.training.settings import Settings
from models.training.trackers import TrackerError, check_trackers
from models.training.trainer import Run, train

SECTION = Train(steps=6, batch=2, optimizer="adamw", checkpoint_every=2, log_every=2)


class FileTracker(GeneralTracker):
    """Appends what it is given to a file; stands for a package that is installed."""

    name = "trackio"
    requires_logging_directory = True

    def __init__(self, run_name: str, logging_dir: str, **kwargs: Any) -> None:
        super().__init__()
        self.file = Path(logging_dir) / f"{run_name}.jsonl"

    @property
    def tracker(self) -> Path:
        return self.file

    def _write(self, **row: Any) -> None:
        with self.file.open("a") as lines:
            lines.write(json.dumps(row) + "\n")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self._write(config=values)

    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        self._write(step=step, values=values)

    def finish(self) -> None:
        self._write(finished=True)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "trackio", FileTracker)
    for module in (tracking, trackers):
        monkeypatch.setattr(module, "get_available_trackers", lambda: [LoggerType.TRACKIO])


def test_a_tracker_gets_every_new_step_with_its_speed(
    installed: None, dataset: Path, tmp_path: Path, make_customizer: Any
) -> None:
    features = FeatureStore(tmp_path / "features", load_index(dataset), SECTION, 0)
    features.prepare(make_customizer(), dataset)
    settings = Settings(trackers=("trackio",))
    reader = ShardReader(dataset, seed=0)
    run = Run(make_customizer(), reader, features, SECTION, 0, tmp_path / "checkpoints", settings=settings)
    history = train(run)
    config, *rows, end = [json.loads(line) for line in next((tmp_path / "trackers").rglob("*.jsonl")).open()]
    assert config["config"]["learning_rate"] == SECTION.learning_rate
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4, 5]
    for row, metrics in zip(rows, history.metrics, strict=True):
        assert {**row["values"], "step": row["step"]}.items() >= metrics.items()
    assert rows[5]["values"]["samples_per_second"] > 0 and rows[5]["values"]["tflops_per_device"] > 0
    assert "samples_per_second" not in history.metrics[5], "times are not published"
    assert end == {"finished": True}
    again = replace(run, customizer=make_customizer(), reader=ShardReader(dataset, seed=0))
    assert train(again) == history
    later = [json.loads(line) for line in next((tmp_path / "trackers").rglob("*.jsonl")).open()][len(rows) + 2 :]
    assert not [row for row in later if "step" in row], "what was logged once is not logged again"


def test_unknown_trackers_and_those_that_are_not_installed_are_named_with_what_is_there(installed: None) -> None:
    check_trackers(("trackio",))
    with pytest.raises(TrackerError, match=r"names 'tensorbord'; allowed: aim, .*tensorboard, .*wandb"):
        check_trackers(("trackio", "tensorbord"))
    with pytest.raises(TrackerError, match=r"names wandb, and its package is not installed; installed: trackio"):
        check_trackers(("wandb",))
    with pytest.raises(TrackerError, match=r"names 'dvclive'; allowed"):
        check_trackers(("dvclive",))


def test_settings_are_the_runtime_keys_among_the_options() -> None:
    options = {"offline": True, "keep_checkpoints": 5, "trackers": ("wandb",), "peak_tflops": 100.0}
    assert Settings.of(options) == Settings(keep_checkpoints=5, trackers=("wandb",), peak_tflops=100.0)
    assert Settings.of({}) == Settings()
