"""Runs one stage in this process, as an engine would: plan, every shard, finalize, index."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from configs.schema import Recipe
from data.shards import FileEntry, Receipt, ShardEntry, ShardIndex, ShardWriter, sha256_file, write_atomic
from data.stage import ShardSpec, StageContext


def context(stage: str, recipe: Recipe, workspace: Path, inputs: tuple[str, ...]) -> StageContext:
    return StageContext(stage=stage, recipe=recipe, workspace=workspace, signature="0" * 64, inputs=inputs)


def run_stage(module: Any, ctx: StageContext) -> ShardIndex:
    return publish(ctx, module, [run_one(module, ctx, spec) for spec in module.plan(ctx)])


def run_one(module: Any, ctx: StageContext, spec: ShardSpec) -> Receipt:
    with ShardWriter(ctx.work_dir, ctx.stage, ctx.signature, spec.index) as out:
        module.run_shard(ctx, spec, out)
        receipt = out.finish()
    assert sorted(receipt.keys + [failure.key for failure in receipt.failed]) == list(spec.keys)
    return receipt


def publish(ctx: StageContext, module: Any, receipts: list[Receipt]) -> ShardIndex:
    out_dir = ctx.output_dir(ctx.stage)
    out_dir.mkdir(parents=True, exist_ok=True)
    entries = []
    for receipt in receipts:
        target = out_dir / receipt.name
        target.unlink(missing_ok=True)
        os.link(ctx.work_dir / receipt.name, target)
        entries.append(ShardEntry(name=receipt.name, bytes=receipt.bytes, sha256=receipt.sha256, keys=receipt.keys))
    failed = [failure for receipt in receipts for failure in receipt.failed]
    index = ShardIndex(stage=ctx.stage, signature=ctx.signature, shards=entries, failed=failed)
    if module is not None:
        summary, shards = module.finalize(ctx, index, out_dir), {entry.name for entry in entries}
        files = [
            FileEntry(name=path.name, bytes=path.stat().st_size, sha256=sha256_file(path))
            for path in sorted(out_dir.iterdir())
            if path.is_file() and path.name not in {*shards, "index.json"}
        ]
        index = index.model_copy(update={"summary": summary, "files": files})
    write_atomic(out_dir / "index.json", index.model_dump_json(indent=1).encode())
    return index


def write_input(
    workspace: Path,
    stage: str,
    samples: Iterable[tuple[str, BaseModel, dict[str, bytes]]],
    recipe: Recipe,
    shard_size: int = 2,
) -> ShardIndex:
    """A finished stage holding `samples` (key, record, files), which must come in key order."""
    ctx = context(stage, recipe, workspace, ())
    ordered = list(samples)
    receipts = []
    for number, start in enumerate(range(0, len(ordered), shard_size)):
        with ShardWriter(ctx.work_dir, stage, ctx.signature, number) as out:
            for key, record, files in ordered[start : start + shard_size]:
                out.add(key, record, files)
            receipts.append(out.finish())
    return publish(ctx, None, receipts)
