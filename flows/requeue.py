"""`syncd retry-failed`: put the shards that hold failed keys back into the queue."""

from dataclasses import dataclass
from pathlib import Path

from data.shards import Receipt, receipt_path
from flows.graph import load_graph
from flows.history import current_signature, receipts_in, work_folder
from flows.workspace import queued_mark


@dataclass(frozen=True)
class Requeued:
    stage: str
    keys: list[str]
    shards: list[int]


def requeue_failed(workspace: Path, stage: str | None = None, reason: str | None = None) -> list[Requeued]:
    """Delete the receipts of shards with failed keys (of this `reason`), and mark their stage as due.

    The next `syncd run` makes those shards again, and no other. (DVC alone sees no change, hence the mark.)
    """
    graph = load_graph(workspace)
    names = [graph.node(stage).name] if stage else list(graph.names)
    signatures = {name: current_signature(graph, name, workspace) for name in names}
    found = []
    for name, signature in signatures.items():
        folder = work_folder(workspace, name, signature) if signature else None
        hit = [receipt for receipt in receipts_in(folder) if _failed(receipt, reason)] if folder else []
        if folder is None or not hit:
            continue
        for receipt in hit:
            receipt_path(folder, receipt.index).unlink()
        queued_mark(workspace, name).touch()
        keys = sorted(key for receipt in hit for key in _failed(receipt, reason))
        found.append(Requeued(name, keys, [receipt.index for receipt in hit]))
    return found


def _failed(receipt: Receipt, reason: str | None) -> list[str]:
    return [failure.key for failure in receipt.failed if reason is None or failure.reason == reason]
