"""What the benchmarks share: interleaved timing, running the pipeline from outside, Markdown tables."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch


def interleaved(
    calls: dict[str, Callable[[], object]],
    repeats: int,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median seconds of each call, one of each per round after a warm-up round."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(repeats + 1):
        for name, call in calls.items():
            start = clock()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if round_:
                times[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def pipeline_command(workspace: Path, recipe: str, until: str, workers: int, settings: Sequence[str]) -> list[str]:
    """`syncd run` of a recipe in a workspace of its own; `settings` are KEY=VALUE."""
    overrides = [word for setting in settings for word in ("--set", setting)]
    where = ["--workspace", str(workspace), "--workers", str(workers), "--until", until]
    return [sys.executable, "-m", "flows.cli", "run", "--recipe", recipe, *where, *overrides]


def run_pipeline(workspace: Path, recipe: str, until: str, workers: int, settings: Sequence[str]) -> None:
    subprocess.run(pipeline_command(workspace, recipe, until, workers, settings), check=True, stdout=subprocess.DEVNULL)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
