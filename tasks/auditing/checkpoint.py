"""A checkpoint as rows of the audit store: what its header says, and every use of an image in its training."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from data.audit.parts import AuditError, Row, building
from data.ids import canonical_json
from data.shards import ShardIndex, load_index, verify_file
from models.training.record import CheckpointRecord
from tasks.auditing.chain import Link, sources_of, statement_row

STAGE = "train"
WEIGHTS, LEDGER, PAIRS = "pytorch_lora_weights.safetensors", "ledger.jsonl", "pairs.json"
"""As in tasks.train and models.lora, which load torch."""


def header_of(file: Path) -> CheckpointRecord:
    """What a weights file says of itself; AuditError if it was not written by this project. Does not load torch."""
    try:
        with safe_open(file, framework="numpy") as opened:
            return CheckpointRecord.from_header(opened.metadata() or {})
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise AuditError(f"{file}: its header does not describe a SynCD checkpoint ({error})") from error


def weights_sha256(index: ShardIndex) -> str:
    """Of the weights file of a finished train stage, as its index names it."""
    return next(entry.sha256 for entry in index.files if entry.name == WEIGHTS)


def write_checkpoint(workspace: Path, chain: Sequence[Link], shard_of: Mapping[str, str], store: Path) -> None:
    """Put the checkpoint of a workspace into the store. `shard_of`: digest of the tar that holds each set.

    ShardError if a file is not what the index says.
    """
    folder, train = workspace / "artifacts" / STAGE, chain[-1]
    index = load_index(folder)
    entries = {entry.name: entry for entry in index.files}
    for name in (WEIGHTS, LEDGER, *([PAIRS] if PAIRS in entries else [])):
        verify_file(folder / name, entries[name].bytes, entries[name].sha256)
    with building(store, "checkpoints", entries[WEIGHTS].sha256) as part:
        part.add("training_statements", [statement_row(link) for link in chain])
        part.add("checkpoints", [_facts(header_of(folder / WEIGHTS), train, entries[LEDGER].sha256)])
        with (folder / LEDGER).open("rb") as lines:
            part.add("ledger", (row for line in lines for row in ledger_rows(json.loads(line), shard_of)))
        if PAIRS in entries:
            part.add("pair_tars", map(_tar, json.loads((folder / PAIRS).read_bytes())["tars"]))
        part.finish(sources_of(chain))


def _facts(record: CheckpointRecord, train: Link, ledger_sha256: str) -> Row:
    stated, base = statement_row(train), record.base_model
    return {
        **{name: stated[name] for name in ("statement", "finished", "commit", "dirty")},
        **{name: getattr(record, name) for name in ("dataset_sha256", "signature", "recipe_sha256", "pairs_sha256")},
        **{name: getattr(record, name) for name in ("lora_rank", "height", "width")},
        "reference_form": record.references,
        "steps": record.step,
        "base_model": base.name,
        "base_revision": base.revision,
        "base_source": base.source,
        "base_licence": base.licence,
        "ledger_sha256": ledger_sha256,
    }


def _tar(tar: dict[str, Any]) -> Row:
    skipped = canonical_json(tar["skipped"]).decode()
    return {"name": tar["name"], "tar_sha256": tar["sha256"], "pairs": tar["pairs"], "skipped": skipped}


def ledger_rows(step: dict[str, Any], shard_of: Mapping[str, str]) -> Iterator[Row]:
    """One step of the ledger, use by use. What was dropped was not shown and is no use."""
    for place, example in enumerate(step["samples"]):
        where = {"step": step["step"], "place": place}
        if "pair" in example:
            yield {
                **where,
                "use": "pair",
                "shard_sha256": example["tar"],
                "pair": example["pair"],
                "text": example["text"],
            }
            continue
        where |= {"set_id": example["set"], "shard_sha256": shard_of.get(example["set"])}
        yield {**where, "use": "target", "sample_id": example["target"], "text": example["text"]}
        crops = example.get("crops") or [None] * len(example["references"])
        shown = zip(example["references"], example["flipped"], crops, strict=True)
        for slot, (reference, flipped, crop) in enumerate(shown):
            yield {
                **where,
                "use": "reference",
                "slot": slot,
                "sample_id": reference,
                "flipped": flipped,
                "crop": crop,
            }


def ledger_digest(rows: Iterable[Mapping[str, Any]]) -> str:
    """sha256 of the ledger.jsonl that these rows were read from; in the order of step, place and slot, targets first.

    The table holds all that the file does, so that the file's digest, which the statement of the training names, can
    be recomputed after the file itself is gone. ValueError for a reference without a target, which no file has.
    """
    digest = hashlib.sha256()
    step: dict[str, Any] | None = None
    for row in rows:
        if step is None or step["step"] != row["step"]:
            if step is not None:
                digest.update(_line(step))
            step = {"step": row["step"], "shards": {}, "samples": []}
        if row["use"] == "reference":
            if not step["samples"] or "references" not in step["samples"][-1]:
                raise ValueError(f"step {row['step']}: reference {row['sample_id']} without a target")
            example = step["samples"][-1]
            example["references"].append(row["sample_id"])
            example["flipped"].append(row["flipped"])
            if row["crop"] is not None:
                example.setdefault("crops", []).append(row["crop"])
        elif row["use"] == "pair":
            step["samples"].append({"tar": row["shard_sha256"], "pair": row["pair"], "text": row["text"]})
        else:
            step["shards"][row["shard_sha256"]] = None
            example = {"set": row["set_id"], "target": row["sample_id"], "references": [], "flipped": []}
            step["samples"].append({**example, "text": row["text"]})
    if step is not None:
        digest.update(_line(step))
    return digest.hexdigest()


def _line(step: dict[str, Any]) -> bytes:
    return canonical_json({**step, "shards": list(step["shards"])}) + b"\n"
