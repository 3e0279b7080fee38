"""Take-downs without making the dataset again: shards that hold no revoked key are taken from the output before.

A stage whose parameters differ from those of an earlier output by configs/revoked.yaml alone, and whose inputs differ
from the earlier ones by take-downs alone, would make every shard without a newly revoked key as it is: same keys, same
bytes. Those shards are linked into the new work folder, with receipts that say where they are from.
"""

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from data.ids import canonical_json
from data.provenance import input_indexes, parameters_of, read_statement, signature_in
from data.revocation import REVOKED, REVOKED_FILE, Revoked
from data.shards import Receipt, ShardError, read_receipt, read_tar, receipt_path, sha256_file, write_atomic
from data.stage import ShardSpec, StageContext
from flows.graph import Graph, index_path, input_digests, tracked_values
from flows.publishing import link

LINK_FILE = "carried.json"
STATEMENT_FILE = "statement.json"


@dataclass(frozen=True)
class Earlier:
    """An output of the same stage that the present one differs from by take-downs alone."""

    folder: Path
    """Its work folder."""
    signature: str
    index_sha256: str
    changed: frozenset[str]
    """Keys whose records are others in an input that looks across shards."""


def find_earlier(graph: Graph, ctx: StageContext) -> Earlier | None:
    """The latest such output whose work folder is still there; None if nothing is revoked or there is none."""
    if not ctx.revoked.objects:
        return None
    node = graph.node(ctx.stage)
    params, inputs = tracked_values(node, ctx.workspace), input_digests(node, ctx.workspace)
    folders = [path.parent for path in ctx.work_dir.parent.glob(f"*/{STATEMENT_FILE}") if path.parent != ctx.work_dir]
    for folder in sorted(folders, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        statement = read_statement(folder / STATEMENT_FILE)
        changed = _changed_inputs(ctx.workspace, input_indexes(statement), inputs)
        if changed is not None and _by_take_down(parameters_of(statement), params):
            index = f"artifacts/{ctx.stage}/index.json"
            sha256 = next(own["digest"]["sha256"] for own in statement["subject"] if own["name"] == index)
            return Earlier(folder, str(signature_in(statement)), sha256, changed)
    return None


def _by_take_down(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether parameters differ by more revoked objects alone."""
    then, later = (Revoked.of(values.get(REVOKED_FILE, {})) for values in (before, now))
    others = [{file: own for file, own in values.items() if file != REVOKED_FILE} for values in (before, now)]
    return then.objects < later.objects and canonical_json(others[0]) == canonical_json(others[1])


def _changed_inputs(workspace: Path, before: dict[str, str], now: dict[str, str]) -> frozenset[str] | None:
    """Keys that changed in the inputs beside those taken down; None if an input changed otherwise."""
    changed: frozenset[str] = frozenset()
    if before.keys() != now.keys():
        return None
    for stage in now:
        if before[stage] == now[stage]:
            continue
        links = [json.loads(path.read_bytes()) for path in _work(workspace, stage).glob(f"*/{LINK_FILE}")]
        link = next((own for own in links if (own["before"], own["now"]) == (before[stage], now[stage])), None)
        if link is None:
            return None
        changed |= frozenset(link["changed"])
    return changed


def _work(workspace: Path, stage: str) -> Path:
    return workspace / "artifacts" / ".work" / stage


def carry_over(module: ModuleType, ctx: StageContext, specs: list[ShardSpec], earlier: Earlier) -> None:
    """Link the shards that the take-down leaves as they are into the work folder.

    None of a stage that declares LOOKS_ACROSS_SHARDS: one of its shards may depend on what left another.
    """
    if getattr(module, "LOOKS_ACROSS_SHARDS", False):
        return
    for spec in specs:
        if earlier.changed.intersection(spec.keys) or receipt_path(ctx.work_dir, spec.index).exists():
            continue
        receipt = _receipt(earlier, spec.index)
        if receipt is not None and _unaffected(ctx, spec, receipt):
            _carry(ctx, earlier, receipt)


def _receipt(earlier: Earlier, index: int) -> Receipt | None:
    """None if the shard is not there, or is not what its receipt says: then it is made."""
    with suppress(ShardError):
        return read_receipt(earlier.folder, index, earlier.signature)
    return None


def _unaffected(ctx: StageContext, spec: ShardSpec, receipt: Receipt) -> bool:
    gone = {failure.key for failure in receipt.failed if failure.reason == REVOKED}
    known = sorted([*receipt.keys, *(failure.key for failure in receipt.failed)])
    return known == list(spec.keys) and gone == {key for key in spec.keys if ctx.revoked.holds(ctx.stage, key)}


def _carry(ctx: StageContext, earlier: Earlier, receipt: Receipt) -> None:
    ctx.work_dir.mkdir(parents=True, exist_ok=True)
    target = ctx.work_dir / receipt.name
    target.unlink(missing_ok=True)
    link(earlier.folder / receipt.name, target)
    run = {**receipt.run, "carried_from": earlier.signature}
    own = Receipt(**receipt.model_dump(exclude={"signature", "run", "checksum"}), signature=ctx.signature, run=run)
    write_atomic(receipt_path(ctx.work_dir, receipt.index), own.model_dump_json(indent=1).encode())


def leave_link(module: ModuleType, ctx: StageContext, earlier: Earlier) -> None:
    """Say in the work folder of a published stage that it differs from the earlier output by take-downs alone."""
    changed: list[str] = []
    if getattr(module, "LOOKS_ACROSS_SHARDS", False):
        before, now = (_records(folder) for folder in (earlier.folder, ctx.work_dir))
        changed = sorted(key for key, record in now.items() if before.get(key) != record)
    now_sha256 = sha256_file(index_path(ctx.workspace, ctx.stage))
    link = {"before": earlier.index_sha256, "now": now_sha256, "changed": changed}
    write_atomic(ctx.work_dir / LINK_FILE, canonical_json(link))


def _records(folder: Path) -> dict[str, dict[str, Any]]:
    tars = sorted(folder.glob("[0-9]" * 6 + ".tar"))
    return {sample.key: sample.record for tar in tars for sample in read_tar(tar.read_bytes())}
