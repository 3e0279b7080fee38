"""What the work folders tell about a stage: shards done, failures, speed and size."""

import json
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from configs.errors import ConfigError
from data.shards import Receipt, ShardError, ShardIndex, load_index, parse_receipt, receipt_path
from flows.crashes import crashes_in
from flows.graph import Graph, index_path, stage_signature
from flows.workspace import queued_mark

PACE_RECEIPTS = 256
"""Evenly spaced, these say how fast a stage is as well as all of them."""
DONE, STALE, PARTIAL, READY, WAITING = "done", "out of date", "unfinished", "not begun", "waiting"


@dataclass(frozen=True)
class StageState:
    """Where a stage stands. `total_*` are None until the stage has been planned for its present inputs."""

    stage: str
    state: str
    shards: int
    total_shards: int | None
    keys: int
    total_keys: int | None
    failed: dict[str, int]
    pace: "Pace | None"
    summary: dict[str, object]
    crashes: dict[str, int] = field(default_factory=dict)
    """Attempts at shards of the present signature that crashed, by reason."""


@dataclass(frozen=True)
class Pace:
    """Means over receipts of this signature, or of the latest earlier one: over PACE_RECEIPTS of them at most."""

    seconds_per_key: float
    bytes_per_key: float
    keys_per_shard: float
    earlier: bool


def work_folder(workspace: Path, stage: str, signature: str) -> Path:
    return workspace / "artifacts" / ".work" / stage / signature[:16]


def receipts_in(folder: Path, most: int | None = None) -> list[Receipt]:
    """Receipts of one work folder by number, their tars not verified; of more than `most`, evenly spaced ones.

    One that was changed counts for nothing: the engine makes its shard again.
    """
    numbers = sorted(int(path.stem) for path in folder.glob("[0-9]*.json") if path.stem.isdigit())
    if most is not None and len(numbers) > most:
        numbers = [numbers[place * len(numbers) // most] for place in range(most)]
    found = []
    for number in numbers:
        with suppress(ShardError):
            found.append(parse_receipt(receipt_path(folder, number)))
    return found


def published(workspace: Path, stage: str) -> ShardIndex | None:
    return load_index(index_path(workspace, stage).parent) if index_path(workspace, stage).exists() else None


def current_signature(graph: Graph, stage: str, workspace: Path) -> str | None:
    """The signature that the stage would run under, None while an input is missing."""
    try:
        return stage_signature(graph, stage, workspace)
    except (ShardError, ConfigError):
        return None


def pace_of(workspace: Path, stage: str, signature: str | None) -> Pace | None:
    """Speed and size from receipts: of this signature, else of the work folder that was written last."""
    own = work_folder(workspace, stage, signature) if signature else None
    parent = workspace / "artifacts" / ".work" / stage
    others = [folder for folder in parent.glob("*") if folder.is_dir() and folder != own] if parent.exists() else []
    ordered = sorted(others, key=lambda folder: folder.stat().st_mtime, reverse=True)
    for folder in ([own] if own and own.exists() else []) + ordered:
        receipts = [receipt for receipt in receipts_in(folder, PACE_RECEIPTS) if "seconds" in receipt.run]
        keys = sum(len(receipt.keys) + len(receipt.failed) for receipt in receipts)
        if keys:
            seconds = sum(float(receipt.run["seconds"]) for receipt in receipts)
            size = sum(receipt.bytes for receipt in receipts)
            return Pace(seconds / keys, size / keys, keys / len(receipts), earlier=folder != own)
    return None


def stage_state(graph: Graph, stage: str, workspace: Path) -> StageState:
    signature = current_signature(graph, stage, workspace)
    index = published(workspace, stage)
    pace = pace_of(workspace, stage, signature)
    queued = queued_mark(workspace, stage).exists()
    crashes = crashes_in(work_folder(workspace, stage, signature)) if signature else {}
    if index is not None and index.signature == signature and not queued:
        failed = Counter(failure.reason for failure in index.failed)
        keys, shards = len(index.keys) + len(index.failed), len(index.shards)
        return StageState(stage, DONE, shards, shards, keys, keys, dict(failed), pace, index.summary, crashes)
    summary = index.summary if index is not None else {}
    if signature is None:
        return StageState(stage, STALE if index else WAITING, 0, None, 0, None, {}, pace, summary)
    folder = work_folder(workspace, stage, signature)
    receipts = receipts_in(folder)
    planned = folder / "plan.json"
    size = json.loads(planned.read_bytes()) if planned.exists() else {}
    failed = Counter(failure.reason for receipt in receipts for failure in receipt.failed)
    keys = sum(len(receipt.keys) + len(receipt.failed) for receipt in receipts)
    state = PARTIAL if receipts else STALE if index else READY
    return StageState(
        stage, state, len(receipts), size.get("shards"), keys, size.get("keys"), dict(failed), pace, summary, crashes
    )
