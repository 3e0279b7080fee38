"""Digests of one recipe run with one worker, with two, and killed in mid-stage and resumed: they must be equal.

    python -m benchmarks.reproducibility [--objects 24] [--folder DIR]

Each run has a workspace of its own. The killed run gets SIGKILL, the whole process group at once, as soon as some but
not all shards of the chosen stage have a receipt; the receipts that were there must still be the same files at the end.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import markdown, pipeline_command, run_pipeline
from data.shards import sha256_file

STAGES = ("render", "generate", "select", "shard")


SETTINGS = (
    "render.shard_size=4",
    "generate.shard_size=2",
    "generate.steps=8",
    "select.min_quality=-10",
    "select.min_identity=-1",
    "select.max_identity=1",
)


def command(workspace: Path, objects: int, workers: int) -> list[str]:
    return pipeline_command(workspace, "demo", "shard", workers, [f"assets.count={objects}", *SETTINGS])


def run(workspace: Path, objects: int, workers: int) -> None:
    run_pipeline(workspace, "demo", "shard", workers, [f"assets.count={objects}", *SETTINGS])


def receipts(workspace: Path, stage: str) -> dict[str, int]:
    """Receipt file -> time of its last change, in nanoseconds."""
    found = (workspace / "artifacts" / ".work" / stage).glob("*/[0-9]*.json")
    return {path.name: path.stat().st_mtime_ns for path in found}


def run_killed(workspace: Path, objects: int, stage: str, timeout: float = 600) -> tuple[dict[str, int], int]:
    """Start a run, kill it in the middle of `stage`, resume it; (receipts at the kill, shards of the stage)."""
    process = subprocess.Popen(
        command(workspace, objects, 2), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + timeout
    while not receipts(workspace, stage):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the run ended ({process.returncode}) before {stage} had a receipt")
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    at_kill = receipts(workspace, stage)
    run(workspace, objects, 2)
    return at_kill, len(receipts(workspace, stage))


def digests(workspace: Path) -> dict[str, str]:
    """Stage -> sha256 of its index, which names the sha256 of every shard."""
    return {stage: sha256_file(workspace / "artifacts" / stage / "index.json") for stage in STAGES}


def compare(
    folder: Path, objects: int, undisturbed: tuple[int, ...] = (1, 2), killed_stage: str = "generate"
) -> dict[str, dict[str, str]]:
    """Run once with each number of workers, and once with two that are killed; run -> stage -> digest.

    RuntimeError if a finished shard was made again.
    """
    workspaces = {f"workers: {workers}": folder / f"{workers}-workers" for workers in undisturbed}
    for workers, workspace in zip(undisturbed, workspaces.values(), strict=True):
        run(workspace, objects, workers)
    killed = folder / "killed"
    before, total = run_killed(killed, objects, killed_stage)
    if not 0 < len(before) < total:
        raise RuntimeError(f"{len(before)} of {total} shards of {killed_stage} were finished at the kill; none was cut")
    after = receipts(killed, killed_stage)
    redone = [name for name, changed in before.items() if after[name] != changed]
    if redone:
        raise RuntimeError(f"finished shards were made again after the kill: {redone}")
    label = f"killed in {killed_stage} at {len(before)} of {total} shards, resumed"
    return {name: digests(workspace) for name, workspace in (workspaces | {label: killed}).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--objects", type=int, default=24)
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="syncd-digests-"))
    found = compare(folder, options.objects)
    print(markdown(["run", *STAGES], [[name, *(row[stage][:16] for stage in STAGES)] for name, row in found.items()]))
    equal = len({tuple(row.values()) for row in found.values()}) == 1
    print("all equal" if equal else "NOT EQUAL")
    sys.exit(0 if equal else 1)


if __name__ == "__main__":
    main()
