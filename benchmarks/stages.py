"""Throughput and peak memory of every stage of a finished run, from the receipts of its shards.

    python -m benchmarks.stages [WORKSPACE]        default: the current folder

A receipt says when its shard began, how long it took and the worker's peak memory. So the table is of the run as it
was: its recipe, its workers, its machine. Loading a model is part of the first shard of each worker; starts are kept
to the second; in a resumed run the pause counts as time passed.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.common import markdown
from data.shards import Receipt, ShardError, ShardIndex, load_index, load_receipt

STAGES = ("assets", "prompts", "render", "generate", "score", "select", "shard", "train", "evaluate", "report")
UNITS = {
    "assets": "objects",
    "prompts": "prompts",
    "render": "views",
    "generate": "images",
    "score": "images",
    "select": "images",
    "shard": "images",
    "train": "samples_seen",
    "evaluate": "images",
}
"""What a stage is counted in: the entry of that name in its summary, else its keys."""


@dataclass(frozen=True)
class Row:
    """Speed of one stage. `busy_s` adds up the shards, `wall_s` is from the first start to the last end."""

    stage: str
    shards: int
    unit: str
    count: int
    failed: int
    busy_s: float
    wall_s: float
    median_shard_s: float
    peak_mb: float
    megabytes: float


def measure(workspace: Path, stage: str) -> Row | None:
    """The row of a stage, None if it has not finished; ShardError if its receipts are gone or do not hold."""
    folder = workspace / "artifacts" / stage
    if not (folder / "index.json").exists():
        return None
    index = load_index(folder)
    receipts = _receipts(workspace, index)
    seconds = sorted(receipt.run["seconds"] for receipt in receipts)
    starts = [datetime.fromisoformat(receipt.run["started"]).timestamp() for receipt in receipts]
    ends = [start + receipt.run["seconds"] for start, receipt in zip(starts, receipts, strict=True)]
    unit, count = _counted(stage, index)
    return Row(
        stage=stage,
        shards=len(receipts),
        unit=unit,
        count=count,
        failed=len(index.failed),
        busy_s=sum(seconds),
        wall_s=max(ends, default=0) - min(starts, default=0),
        median_shard_s=seconds[len(seconds) // 2] if seconds else 0,
        peak_mb=max((receipt.run["peak_mb"] for receipt in receipts), default=0),
        megabytes=sum(receipt.bytes for receipt in receipts) / 1e6,
    )


def _receipts(workspace: Path, index: ShardIndex) -> list[Receipt]:
    directory = workspace / "artifacts" / ".work" / index.stage / index.signature[:16]
    receipts = [load_receipt(directory, number, index.signature) for number in range(len(index.shards))]
    missing = [number for number, receipt in enumerate(receipts) if receipt is None]
    if missing:
        raise ShardError(f"{directory}: no receipt of shards {missing[:5]}; run the stage again to measure it")
    return [receipt for receipt in receipts if receipt is not None]


def _counted(stage: str, index: ShardIndex) -> tuple[str, int]:
    unit = UNITS.get(stage, "keys")
    count: Any = index.summary.get(unit)
    return (unit, count) if isinstance(count, int) else ("keys", len(index.keys))


def table(rows: Sequence[Row]) -> str:
    """Markdown. `per worker` divides by the time workers were busy, `in all` by the time that passed."""
    head = (
        "stage", "shards", "count", "unit", "failed", "per worker /s", "in all /s", "shard s (median)", "wall s",
        "peak MB", "output MB",
    )  # fmt: skip
    lines = []
    for row in rows:
        lines.append(
            (
                row.stage,
                str(row.shards),
                str(row.count),
                row.unit,
                str(row.failed),
                _rate(row.count, row.busy_s),
                _rate(row.count, row.wall_s),
                f"{row.median_shard_s:.2f}",
                f"{row.wall_s:.1f}",
                f"{row.peak_mb:.0f}",
                f"{row.megabytes:.2f}",
            )
        )
    return markdown(head, lines)


def _rate(count: int, seconds: float) -> str:
    return f"{count / seconds:.3g}" if seconds > 0 else "-"


def main(arguments: Sequence[str]) -> int:
    workspace = Path(arguments[0] if arguments else ".")
    try:
        rows = [row for stage in STAGES if (row := measure(workspace, stage)) is not None]
    except ShardError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not rows:
        print(f"error: {workspace / 'artifacts'} holds no finished stage; run: syncd run", file=sys.stderr)
        return 1
    print(table(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
