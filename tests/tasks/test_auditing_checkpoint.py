"""The ledger of a training as rows: every use once, nothing lost, and a header that says where a file is from."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from data.audit.parts import AuditError, building, part_folder
from data.ids import canonical_json
from tasks.auditing.checkpoint import header_of
from tasks.auditing.ledger import ledger_digest, ledger_rows

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


def rows_of(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [dict(row) for step in steps for row in ledger_rows(step, SHARD_OF)]


def digest_of_rows(folder: Path, rows: list[dict[str, Any]]) -> str:
    with building(folder, "checkpoints", "d" * 64) as part:
        part.add("ledger", rows)
        part.finish({})
    return ledger_digest(part_folder(folder, "checkpoints", "d" * 64) / "ledger.parquet")


def written(steps: list[dict[str, Any]]) -> str:
    return hashlib.sha256(b"".join(canonical_json(row) + b"\n" for row in steps)).hexdigest()


def test_the_rows_of_a_ledger_give_its_bytes_again(tmp_path: Path) -> None:
    assert digest_of_rows(tmp_path, rows_of(ledger())) == written(ledger())
    assert digest_of_rows(tmp_path, []) == written([])
    odd = [{"step": 0, "shards": [], "samples": [{"tar": "c" * 64, "pair": 'e\u0301"\\\n\x1f\x7f', "text": True}]}]
    assert digest_of_rows(tmp_path, rows_of(odd)) == written(odd)


def test_no_row_can_be_left_out_added_or_changed(tmp_path: Path) -> None:
    """Whatever a question counts: the text alone would not tell a use of an unknown kind, or the set of a reference."""
    rows, whole = rows_of(ledger()), written(ledger())
    forged = [[*rows[:place], *rows[place + 1 :]] for place in range(len(rows))]
    forged += [[*rows[:place], rows[place], *rows[place:]] for place in range(len(rows))]
    others = {"use": "Target", "sample_id": "cup-s0-9", "set_id": "cup-s1", "shard_sha256": "e" * 64, "step": 7}
    others |= {"place": 5, "slot": 5, "flipped": True, "crop": 3, "pair": "0009", "text": False}
    forged += [
        [*rows[:place], {**row, name: value}, *rows[place + 1 :]]
        for place, row in enumerate(rows)
        for name, value in others.items()
        if name in row and row[name] != value
    ]
    for changed in forged:
        try:
            assert digest_of_rows(tmp_path, changed) != whole
        except ValueError as error:
            assert str(error).startswith("row ")


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
