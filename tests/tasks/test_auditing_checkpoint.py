"""The ledger of a training as rows: every use once, nothing lost, and a header that says where a file is from."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from data.audit.parts import AuditError
from data.ids import canonical_json
from tasks.auditing.checkpoint import header_of, ledger_digest, ledger_rows

SHARD_OF = {"mug-s0": "a" * 64, "cup-s0": "b" * 64}


def example(name: str, references: int, text: bool = True, crops: list[int] | None = None) -> dict[str, Any]:
    shown = [f"{name}-{place + 1}" for place in range(references)]
    kept = {"references": shown, "flipped": [place == 1 for place in range(references)]}
    return {"set": name, "target": f"{name}-0", "text": text, **kept, **({"crops": crops} if crops else {})}


STEPS = [
    [example("mug-s0", 2), example("cup-s0", 1, text=False)],
    [example("cup-s0", 0), {"tar": "c" * 64, "pair": "0001", "text": False}],
    [{"tar": "c" * 64, "pair": "0000", "text": True}, example("cup-s0", 2, crops=[1, 0])],
]


def ledger() -> list[dict[str, Any]]:
    rows = []
    for step, samples in enumerate(STEPS):
        shards = list(dict.fromkeys(SHARD_OF[own["set"]] for own in samples if "set" in own))
        rows.append({"step": step, "shards": shards, "samples": samples})
    return rows


def test_the_rows_of_a_ledger_give_its_bytes_again() -> None:
    written = b"".join(canonical_json(row) + b"\n" for row in ledger())
    rows = [row for step in ledger() for row in ledger_rows(step, SHARD_OF)]
    complete = [{"slot": None, "crop": None, "pair": None, **row} for row in rows]
    assert ledger_digest(complete) == hashlib.sha256(written).hexdigest()
    for place in range(len(complete)):
        less = [*complete[:place], *complete[place + 1 :]]
        try:
            assert ledger_digest(less) != hashlib.sha256(written).hexdigest()
        except ValueError as error:
            assert complete[place]["use"] == "target" and "without a target" in str(error)


def test_every_use_is_one_row_and_what_was_dropped_is_none() -> None:
    rows = [row for step in ledger() for row in ledger_rows(json.loads(json.dumps(step)), SHARD_OF)]
    assert [(row["step"], row["use"]) for row in rows] == [
        *[(0, use) for use in ("target", "reference", "reference", "target", "reference")],
        *[(1, "target"), (1, "pair"), (2, "pair"), (2, "target"), (2, "reference"), (2, "reference")],
    ]
    assert [row.get("crop") for row in rows[-2:]] == [1, 0]


def test_a_file_of_others_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    with pytest.raises(AuditError, match="does not describe a SynCD checkpoint"):
        header_of(tmp_path / "x.safetensors")
