"""Publishing a finished stage: its folder, which appears whole or not at all, and its provenance statement."""

import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

from data.ids import canonical_json
from data.provenance import make_statement, statement_path, write_statement
from data.shards import Failure, FileEntry, Receipt, ShardEntry, ShardIndex, sha256_file, write_atomic
from data.stage import StageContext
from flows import mirror
from flows.errors import is_expected
from flows.graph import Graph, tracked_values
from flows.worker import RUN_ID_VARIABLE, StageError, is_disk_full


@contextmanager
def stage_step(stage: str, step: str) -> Iterator[None]:
    """Name the stage in whatever its code raises; errors of this project and a full disk speak for themselves."""
    try:
        yield
    except Exception as error:
        if is_expected(error) or is_disk_full(error):
            raise
        raise StageError(f"{stage}: {step}: {type(error).__name__}: {error} (details: SYNCD_DEBUG=1)") from error


def publish(module: ModuleType, ctx: StageContext, receipts: list[Receipt], failed: list[Failure]) -> ShardIndex:
    """Build the stage's output folder beside its place, then move it there in one step."""
    mirror.fetch(ctx, receipts)
    target = ctx.output_dir(ctx.stage)
    building = target.with_name(f".{ctx.stage}.building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        index = _build(module, ctx, receipts, failed, building)
        if target.exists():
            shutil.rmtree(target)
        os.replace(building, target)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    for leftover in chain(ctx.work_dir.glob(".*.tmp"), ctx.work_dir.glob(".*.lock")):
        leftover.unlink(missing_ok=True)
    return index


def _build(
    module: ModuleType, ctx: StageContext, receipts: list[Receipt], failed: list[Failure], building: Path
) -> ShardIndex:
    for receipt in receipts:
        link(ctx.work_dir / receipt.name, building / receipt.name)
    entries = [ShardEntry(**receipt.model_dump(include={"name", "bytes", "sha256", "keys"})) for receipt in receipts]
    index = ShardIndex(stage=ctx.stage, signature=ctx.signature, shards=entries, failed=failed)
    with stage_step(ctx.stage, "finalize"):
        summary = module.finalize(ctx, index, building)
    lines = [canonical_json(failure.model_dump()) + b"\n" for failure in failed]
    write_atomic(building / "failures.jsonl", b"".join(lines))
    if not (building / "metrics.json").exists():
        write_atomic(building / "metrics.json", _pretty(_metrics(index, summary)))
    index = index.model_copy(update={"summary": summary, "files": _files_beside(building, entries)})
    write_atomic(building / "index.json", _pretty(index.model_dump(mode="json")))
    return index


def state(graph: Graph, ctx: StageContext, index: ShardIndex, receipts: list[Receipt]) -> dict[str, Any]:
    """Write the provenance statement of a published stage."""
    node = graph.node(ctx.stage)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    starts = [str(receipt.run["started"]) for receipt in receipts if "started" in receipt.run]
    run = {
        "invocationId": os.environ.get(RUN_ID_VARIABLE) or str(uuid.uuid4()),
        "startedOn": min(starts, default=now),
        "finishedOn": now,
    }
    parameters = tracked_values(node, ctx.workspace)
    statement = make_statement(ctx.workspace, index, parameters, node.inputs, receipts, run)
    return write_statement(statement_path(ctx.workspace, ctx.stage), statement, ctx.work_dir / "statement.json")


def link(source: Path, target: Path) -> None:
    """Hard link, or a copy where the file system has none (shards are replaced, never opened for writing)."""
    try:
        os.link(source, target)
    except OSError as error:
        if is_disk_full(error):
            raise
        shutil.copyfile(source, target)


def _files_beside(folder: Path, entries: list[ShardEntry]) -> list[FileEntry]:
    shards = {entry.name for entry in entries}
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [
        FileEntry(name=name, bytes=path.stat().st_size, sha256=sha256_file(path))
        for path in paths
        if (name := path.relative_to(folder).as_posix()) not in shards
    ]


def _metrics(index: ShardIndex, summary: dict[str, Any]) -> dict[str, Any]:
    numbers = {key: value for key, value in summary.items() if isinstance(value, int | float | dict)}
    failed = dict(Counter(failure.reason for failure in index.failed))
    return {"keys": len(index.keys), "failed": failed, **numbers}


def _pretty(value: Any) -> bytes:
    text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"
