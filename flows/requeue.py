"""`syncd retry-failed`: put the shards that hold failed keys back into the queue.

A shard without its receipt is made again. The mark of the stage is written before any receipt goes, and what is deleted
last is what is looked at first, so that the command may be killed and repeated.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from configs.schema import Runtime
from data.revocation import REVOKED
from data.shards import Failure, Receipt, ShardIndex, receipt_path
from flows.engine import plan_shards, stage_context
from flows.graph import Graph, load_graph
from flows.history import current_signature, published, receipts_in, work_folder
from flows.mirror import receipts_there, stage_store, withdraw
from flows.receipts import keep_published, published_receipts
from flows.worker import stage_module
from flows.workspace import queued_mark


@dataclass(frozen=True)
class Requeued:
    stage: str
    keys: list[str]
    shards: list[int]


@dataclass(frozen=True)
class _Known:
    """Receipts of a stage by where they were found."""

    here: list[Receipt]
    there: list[Receipt]
    published: list[Receipt]
    """Of shards without a receipt, from the index of the stage."""

    def all(self) -> list[Receipt]:
        """One of each shard, the one here before the others."""
        return list({receipt.index: receipt for receipt in (*self.published, *self.there, *self.here)}.values())


def requeue_failed(
    workspace: Path,
    stage: str | None = None,
    reason: str | None = None,
    runtime: Runtime | None = None,
    package: str = "tasks",
) -> list[Requeued]:
    """Delete the receipts of shards with failed keys (of this `reason`), here and in the store of the runtime, and mark
    their stage as due.

    The next `syncd run` makes those shards again, and no other. (DVC alone sees no change, hence the mark.) Where
    receipts are gone, because DVC brought the stage back from its cache, they are written again from its index; only a
    shard whose tar is gone too is made again with the others. ShardError for a receipt or index that is damaged.
    """
    graph, how = load_graph(workspace), runtime or Runtime()
    names = [graph.node(stage).name] if stage else list(graph.names)
    found = [_requeue(graph, workspace, name, reason, how, package) for name in names]
    return [item for item in found if item is not None]


def _requeue(
    graph: Graph, workspace: Path, stage: str, reason: str | None, runtime: Runtime, package: str
) -> Requeued | None:
    signature = current_signature(graph, stage, workspace)
    if signature is None:
        return None
    folder, store = work_folder(workspace, stage, signature), stage_store(runtime.store, stage, signature)
    here, there = receipts_in(folder), receipts_there(store) if store else []
    index, numbers = published(workspace, stage), {receipt.index for receipt in (*here, *there)}
    lost: list[Receipt] = []
    if index is not None and index.signature == signature and _failed(index.failed, reason):
        lost = _without_receipt(graph, workspace, stage, index, numbers, runtime, package)
    known = _Known(here, there, lost)
    hit = {receipt.index: keys for receipt in known.all() if (keys := _failed(receipt.failed, reason))}
    if not hit:
        return None
    gone = keep_published(workspace, folder, [receipt for receipt in lost if receipt.index not in hit])
    mark = queued_mark(workspace, stage)
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
    if store is not None:
        withdraw(store, [receipt for receipt in (*here, *there, *lost) if receipt.index in hit])
    for number in hit:
        receipt_path(folder, number).unlink(missing_ok=True)
    return Requeued(stage, sorted(key for keys in hit.values() for key in keys), sorted([*hit, *gone]))


def _without_receipt(
    graph: Graph,
    workspace: Path,
    stage: str,
    index: ShardIndex,
    numbers: Iterable[int],
    runtime: Runtime,
    package: str,
) -> list[Receipt]:
    """Receipts of the published shards whose `numbers` have none. The plan says which failed key was in which."""
    if len(set(numbers)) >= len(index.shards):
        return []
    module, ctx = stage_module(package, stage), stage_context(graph, stage, workspace, runtime)
    return [receipt for receipt in published_receipts(plan_shards(module, ctx), index) if receipt.index not in numbers]


def _failed(failures: list[Failure], reason: str | None) -> list[str]:
    again = [failure for failure in failures if failure.reason != REVOKED]
    return [failure.key for failure in again if reason is None or failure.reason == reason]
