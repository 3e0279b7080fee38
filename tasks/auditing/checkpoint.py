"""A checkpoint as rows of the audit store: what its header says, and every use of an image in its training."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from data.audit.parts import AuditError, Row, building
from data.ids import canonical_json
from data.shards import load_index, verify_file
from models.header import FILE_NAME
from models.training.record import CheckpointRecord
from tasks.auditing.chain import CHECKPOINT_STAGE, Link, sources_of, statement_row
from tasks.auditing.ledger import ledger_rows

LEDGER, PAIRS, SKIPPED = "ledger.jsonl", "pairs.json", "skipped.json"
"""As in tasks.train, which loads torch."""


def header_of(file: Path) -> CheckpointRecord:
    """What a weights file says of itself; AuditError if it was not written by this project. Does not load torch."""
    try:
        with safe_open(file, framework="numpy") as opened:
            return CheckpointRecord.from_header(opened.metadata() or {})
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise AuditError(f"{file}: its header does not describe a SynCD checkpoint ({error})") from error


def write_checkpoint(workspace: Path, chain: Sequence[Link], shard_of: Mapping[str, str], store: Path) -> None:
    """Put the checkpoint of a workspace into the store. `shard_of`: digest of the tar that holds each set.

    ShardError if a file is not what the index says.
    """
    folder, train = workspace / "artifacts" / CHECKPOINT_STAGE, chain[-1]
    index = load_index(folder)
    entries = {entry.name: entry for entry in index.files}
    for name in (FILE_NAME, LEDGER, *([PAIRS] if PAIRS in entries else [])):
        verify_file(folder / name, entries[name].bytes, entries[name].sha256)
    with building(store, "checkpoints", entries[FILE_NAME].sha256) as part:
        part.add("training_statements", [statement_row(link) for link in chain])
        part.add("checkpoints", [_facts(header_of(folder / FILE_NAME), train, entries[LEDGER].sha256)])
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
