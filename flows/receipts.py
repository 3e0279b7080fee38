"""Receipts in the work folder of a stage: which shards are done, and whether their tars are what was vouched for.

A resumed run asks the first question of every shard and must not wait for terabytes to be read: it looks at receipts,
and at the size of tars. Before a stage is published, the bytes of every tar that this run did not make are read.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from data.shards import (
    Receipt,
    ShardError,
    ShardIndex,
    read_receipt,
    receipt_path,
    shard_name,
    verify_file,
    write_atomic,
)
from data.stage import ShardSpec, StageContext
from flows.errors import warn
from flows.publishing import link
from flows.worker import StageError, check_accounted

BATCH = 1024
"""Tars whose digests are asked for at a time, so that memory does not grow with the stage."""


def finished_shards(ctx: StageContext, specs: Iterable[ShardSpec]) -> dict[int, Receipt]:
    """Receipts that fit their shard, by shard; their tars are there in full length, their bytes not read.

    A receipt that does not hold is deleted with a warning, so that its shard is made again.
    """
    receipts = {}
    for spec in specs:
        try:
            receipt = read_receipt(ctx.work_dir, spec.index, ctx.signature)
            if receipt is None:
                continue
            check_accounted(ctx.stage, spec, receipt.keys, [failure.key for failure in receipt.failed])
        except (ShardError, StageError) as error:
            refuse(ctx, spec.index, str(error))
            continue
        receipts[spec.index] = receipt
    return receipts


def published_receipts(specs: Iterable[ShardSpec], index: ShardIndex) -> list[Receipt]:
    """The receipts that a published stage was made from, but for what they said of their runs.

    None of a shard that is not as the plan has it.
    """
    entries, failures = (
        {entry.name: entry for entry in index.shards},
        {failure.key: failure for failure in index.failed},
    )
    receipts = []
    for spec in specs:
        entry = entries.get(shard_name(spec.index))
        failed = [failures[key] for key in spec.keys if key in failures]
        if entry is None or sorted([*entry.keys, *(failure.key for failure in failed)]) != list(spec.keys):
            continue
        named = {"stage": index.stage, "signature": index.signature, "index": spec.index, "failed": failed}
        receipts.append(Receipt(**named, **entry.model_dump()))
    return receipts


def keep_published(workspace: Path, work_dir: Path, receipts: Iterable[Receipt]) -> list[int]:
    """Put published shards back into the work folder, so that they are not made again. Returns those without a tar.

    Their bytes are read before the stage is published again.
    """
    gone = []
    for receipt in receipts:
        tar, target = workspace / "artifacts" / receipt.stage / receipt.name, work_dir / receipt.name
        if not tar.exists():
            gone.append(receipt.index)
            continue
        work_dir.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        link(tar.resolve(), target)
        write_atomic(receipt_path(work_dir, receipt.index), receipt.model_dump_json(indent=1).encode())
    return gone


def changed_shards(ctx: StageContext, receipts: Iterable[Receipt], threads: int) -> list[int]:
    """The shards whose tar is not the bytes of its receipt, which is deleted with a warning. Reads every tar."""

    def problem(receipt: Receipt) -> tuple[int, str | None]:
        try:
            verify_file(ctx.work_dir / receipt.name, receipt.bytes, receipt.sha256)
        except ShardError as error:
            return receipt.index, str(error)
        return receipt.index, None

    changed, remaining = [], iter(receipts)
    with ThreadPoolExecutor(threads) as pool:
        while batch := list(islice(remaining, BATCH)):
            for index, message in pool.map(problem, batch):
                if message is not None:
                    refuse(ctx, index, message)
                    changed.append(index)
    return changed


def refuse(ctx: StageContext, index: int, message: str) -> None:
    warn(f"{ctx.stage}: {message}; making shard {index} again")
    receipt_path(ctx.work_dir, index).unlink(missing_ok=True)
