"""`syncd retry-failed`: put the shards that hold failed keys back into the queue."""

from dataclasses import dataclass
from pathlib import Path

from data.revocation import REVOKED
from data.shards import Failure, receipt_path
from flows.graph import load_graph
from flows.history import current_signature, published, receipts_in, work_folder
from flows.mirror import receipts_there, stage_store, withdraw
from flows.workspace import queued_mark


@dataclass(frozen=True)
class Requeued:
    stage: str
    keys: list[str]
    shards: list[int]


def requeue_failed(
    workspace: Path, stage: str | None = None, reason: str | None = None, store: str | None = None
) -> list[Requeued]:
    """Delete the receipts of shards with failed keys (of this `reason`), here and at the URL of the runtime's `store`,
    and mark their stage as due.

    The next `syncd run` makes those shards again, and no other. (DVC alone sees no change, hence the mark.) Where
    receipts are gone, because DVC brought the stage back from its cache, that is the whole stage.
    """
    graph = load_graph(workspace)
    names = [graph.node(stage).name] if stage else list(graph.names)
    signatures = {name: current_signature(graph, name, workspace) for name in names}
    found = [_requeue(workspace, name, signature, reason, store) for name, signature in signatures.items() if signature]
    return [item for item in found if item is not None]


def _requeue(workspace: Path, stage: str, signature: str, reason: str | None, url: str | None) -> Requeued | None:
    folder, store = work_folder(workspace, stage, signature), stage_store(url, stage, signature)
    there = receipts_there(store) if store else []
    receipts = list({receipt.index: receipt for receipt in [*there, *receipts_in(folder)]}.values())
    index = published(workspace, stage)
    if receipts:
        hit = [receipt for receipt in receipts if _failed(receipt.failed, reason)]
        keys = sorted(key for receipt in hit for key in _failed(receipt.failed, reason))
        shards = [receipt.index for receipt in hit]
    elif index is not None and index.signature == signature:
        keys, shards = _failed(index.failed, reason), list(range(len(index.shards)))
    else:
        return None
    if not keys:
        return None
    if store is not None:
        withdraw(store, [receipt for receipt in there if receipt.index in shards])
    for number in shards:
        receipt_path(folder, number).unlink(missing_ok=True)
    mark = queued_mark(workspace, stage)
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
    return Requeued(stage, keys, shards)


def _failed(failures: list[Failure], reason: str | None) -> list[str]:
    again = [failure for failure in failures if failure.reason != REVOKED]
    return [failure.key for failure in again if reason is None or failure.reason == reason]
