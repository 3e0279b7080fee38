"""Progress of a stage as a text file for the textfile collector of Prometheus' node_exporter.

`runtime.metrics_folder` (relative to the workspace) holds one file for every workspace and stage, which appears whole.
A stage that is killed leaves its last file: compare syncd_updated_timestamp_seconds with the present. A file that
cannot be written ends no stage.
"""

import time
from collections.abc import Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from data.ids import digest_of
from flows.crashes import crashes_in
from flows.engine import Progress, StageResult
from flows.errors import warn

SECONDS_BETWEEN_FILES = 1.0
LABELS = ("workspace", "stage")


class MetricsFile:
    """A Watcher."""

    def __init__(self, folder: Path, workspace: Path, stage: str, run_id: str) -> None:
        self.path = folder / f"syncd-{workspace.name}-{digest_of(str(workspace))[:8]}-{stage}.prom"
        self.labels = {"workspace": str(workspace), "stage": stage}
        self.run_id = run_id
        self.started = time.monotonic()
        self.written = 0.0
        self.warned = False
        self.first: Progress | None = None
        self.latest: Progress | None = None

    def update(self, progress: Progress) -> None:
        self.first, self.latest = self.first or progress, progress
        if time.monotonic() - self.written >= SECONDS_BETWEEN_FILES:
            self._write(running=True, succeeded=False)

    def finish(self, result: StageResult) -> None:
        self._write(running=False, succeeded=True)

    def fail(self, error: BaseException) -> None:
        self._write(running=False, succeeded=False)

    def _write(self, running: bool, succeeded: bool) -> None:
        if self.latest is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_to_textfile(str(self.path), self._registry(self.latest, running, succeeded))
        except OSError as error:
            self._warn_once(error)
        self.written = time.monotonic()

    def _warn_once(self, error: OSError) -> None:
        if not self.warned:
            self.warned = True
            warn(f"{self.labels['stage']}: no metrics in {self.path} (metrics_folder of the runtime): {error}")

    def _registry(self, latest: Progress, running: bool, succeeded: bool) -> CollectorRegistry:
        registry = CollectorRegistry()
        values = {
            "shards": ("Shards in the stage's plan", latest.shards_total),
            "shards_done": ("Shards with a receipt", latest.shards_done),
            "keys": ("Objects or sets in the stage's plan", latest.keys_total),
            "keys_done": ("Objects or sets that are made or failed", latest.keys_done),
            "seconds_per_shard": ("Wall time per shard that this run made", self._pace()),
            "running": ("1 while the stage runs", int(running)),
            "succeeded": ("1 if it ended well", int(succeeded)),
            "updated_timestamp_seconds": ("When this file was written", time.time()),
        }
        for name, (text, value) in values.items():
            Gauge(f"syncd_{name}", text, LABELS, registry=registry).labels(**self.labels).set(value)
        self._by_reason(registry, "keys_failed", "Keys that failed, by reason", latest.reasons)
        crashes = crashes_in(latest.work_dir)
        self._by_reason(registry, "crashes", "Attempts at a shard that crashed, by reason", crashes)
        about = Gauge("syncd_run_info", "The run that wrote this", (*LABELS, "run_id", "work"), registry=registry)
        about.labels(**self.labels, run_id=self.run_id, work=latest.work_dir.name).set(1)
        return registry

    def _by_reason(self, registry: CollectorRegistry, name: str, text: str, counts: Mapping[str, int]) -> None:
        gauge = Gauge(f"syncd_{name}", text, (*LABELS, "reason"), registry=registry)
        for reason, count in counts.items():
            gauge.labels(**self.labels, reason=reason).set(count)

    def _pace(self) -> float:
        assert self.first is not None and self.latest is not None
        made = self.latest.shards_done - self.first.shards_done
        return (time.monotonic() - self.started) / made if made else 0.0
