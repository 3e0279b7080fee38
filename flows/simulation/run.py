"""`syncd simulate`: every measured step in a process of its own, and what comes out as tables."""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from configs.schema import Recipe, Runtime
from data.provenance import statement_path
from data.shards import receipt_path
from flows.graph import load_graph, stage_signature
from flows.history import work_folder
from flows.simulation.measured import ALL, Measure, read_measure
from flows.simulation.world import STAGES, World, prepare
from flows.worker import StageError
from flows.workspace import run_environment

RUNNERS = ("serial", "thread", "process")


@dataclass(frozen=True)
class StageRow:
    """One stage. `run` made every shard, `resume` those whose receipts were taken away; sizes in bytes."""

    stage: str
    run: Measure
    scan: Measure
    resume: Measure
    index_bytes: int
    statement_bytes: int

    @property
    def shards(self) -> int:
        return int(self.run.counts["shards"])


@dataclass(frozen=True)
class Simulation:
    """All that was measured. `dvc_s`: DVC's hashing and caching of every output."""

    world: World
    workers: int
    share_done: float
    stages: tuple[StageRow, ...]
    runners: dict[str, Measure]
    status: Measure
    plan: Measure
    verify: Measure
    dvc_s: float
    ledger: Measure | None
    report_bytes: int | None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def simulate(
    folder: Path,
    world: World,
    recipe: Recipe,
    runtime: Runtime,
    share_done: float = 0.99,
    stages: tuple[str, ...] = STAGES,
    say: Callable[[str], None] = lambda line: None,
) -> Simulation:
    """Run the stages, take receipts away, and measure what the rest costs. ConfigError if the folder is in use."""
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty; a simulation needs a folder of its own: --workspace DIR")
    workspace = prepare(folder, world, recipe, stages)
    lab = _Lab(workspace, runtime, say)
    runs = {stage: lab.measure("run", stage) for stage in stages}
    dvc_s = lab.commit()
    for stage in stages:
        take_receipts(workspace, stage, share_done)
    scans = {stage: lab.measure("scan", stage) for stage in stages}
    resumes = {stage: lab.measure("run", stage) for stage in stages}
    rows = [
        StageRow(
            stage,
            runs[stage],
            scans[stage],
            resumes[stage],
            (workspace / "artifacts" / stage / "index.json").stat().st_size,
            statement_path(workspace, stage).stat().st_size,
        )
        for stage in stages
    ]
    report = workspace / "artifacts" / "report" / "index.html"
    return Simulation(
        world=world,
        workers=runtime.workers,
        share_done=share_done,
        stages=tuple(rows),
        runners={name: lab.measure("runner", name) for name in RUNNERS},
        status=lab.measure("status", ALL),
        plan=lab.measure("make_plan", ALL),
        verify=lab.measure("verify", ALL),
        dvc_s=dvc_s,
        ledger=lab.measure("ledger", ALL) if "train" in stages else None,
        report_bytes=report.stat().st_size if report.exists() else None,
    )


@dataclass(frozen=True)
class _Lab:
    workspace: Path
    runtime: Runtime
    say: Callable[[str], None]

    def measure(self, step: str, subject: str) -> Measure:
        """One step in a fresh process, so that its memory is its own; StageError with what it said if it fails."""
        self._call("-m", "flows.simulation.measured", step, subject)
        found = read_measure(self.workspace, step, subject)
        self.say(f"{step} {subject}: {found.wall_s:.1f} s, CPU {found.cpu_s:.1f} s, {found.peak_mb:.0f} MB")
        return found

    def commit(self) -> float:
        """Seconds that DVC takes for the outputs of all stages."""
        before = time.perf_counter()
        self._call("-m", "dvc", "commit", "--force", "--quiet")
        seconds = time.perf_counter() - before
        self.say(f"dvc commit: {seconds:.1f} s")
        return seconds

    def _call(self, *arguments: str) -> None:
        environment = run_environment(self.workspace, self.runtime, run_id="simulation")
        done = subprocess.run(
            [sys.executable, *arguments], cwd=self.workspace, env=environment, capture_output=True, text=True
        )
        if done.returncode:
            raise StageError(f"{' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")


def take_receipts(workspace: Path, stage: str, share_done: float) -> int:
    """Delete evenly spaced receipts and tars, so that `share_done` of the shards stay; how many were deleted."""
    folder = work_folder(workspace, stage, stage_signature(load_graph(workspace), stage, workspace))
    numbers = sorted(int(path.stem) for path in folder.glob("[0-9]*.json"))
    gone = round(len(numbers) * (1 - share_done))
    for place in range(gone):
        receipt = receipt_path(folder, numbers[place * len(numbers) // gone])
        receipt.unlink()
        receipt.with_suffix(".tar").unlink()
    return gone
