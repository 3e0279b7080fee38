"""The store of a workspace: filled once from what was published, and it keeps earlier versions."""

import json
from pathlib import Path

import audit_answers as known
import pytest
from audited_workspace import activate, run
from forged_stages import replace, reseal_from

from data.audit.parts import AuditError, parts_of, read_manifest, store_folder
from data.ids import canonical_json
from data.provenance import statement_path
from data.shards import load_index, sha256_file
from flows.audit.diff import diff
from flows.audit.find import find
from flows.audit.store import dataset_here, open_store, update
from flows.audit.trace import trace


def written(workspace: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in store_folder(workspace).rglob("*") if path.is_file()}


def test_what_is_there_is_not_read_again(workspace: Path) -> None:
    before = written(workspace)
    assert update(workspace) == []
    assert written(workspace) == before


def test_the_manifest_names_the_artifacts_by_their_digests(finished: Path) -> None:
    (part,) = parts_of(store_folder(finished), "checkpoints")
    sources = read_manifest(part).sources
    assert "artifacts/train/index.json" in sources and "artifacts/provenance/assets.intoto.json" in sources
    assert sources == {name: sha256_file(finished / name) for name in sources}


def test_a_dataset_that_was_stated_anew_is_taken_in_anew(workspace: Path) -> None:
    path = statement_path(workspace, "assets")
    statement = json.loads(path.read_bytes())
    statement["predicate"]["runDetails"]["metadata"]["finishedOn"] = "2027-01-01T00:00:00+00:00"
    replace(path, canonical_json(statement) + b"\n")
    assert "a later stage was made from" in update(workspace)[0]
    reseal_from(workspace, "assets", "train")
    assert update(workspace) == []
    (row,) = open_store(workspace).rows("SELECT finished FROM statements WHERE stage = 'assets'")
    assert row["finished"].startswith("2027")
    assert len(parts_of(store_folder(workspace), "datasets")) == 1


def test_earlier_versions_stay_answerable(workspace: Path, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = open_store(workspace)
    (checkpoint,) = old.rows("SELECT * FROM checkpoints")
    before = trace(old, checkpoint["checkpoint_sha256"], everything=True)
    activate(workspace, "select.min_quality=5.5", "train.pairs_share=0.0")
    run(workspace, "select", "shard")
    store = open_store(workspace)
    assert "the train stage is not taken into the store" in capsys.readouterr().err
    assert len(parts_of(store_folder(workspace), "datasets")) == 2
    assert trace(store, checkpoint["checkpoint_sha256"], everything=True) == before
    name = next(iter(known.uses(finished).steps))
    used = find(store, "sample", name)["checkpoints"]
    assert [row["as_target"] + row["as_reference"] for row in used if row["as_target"] + row["as_reference"]] == [
        known.uses(finished).target[name] + known.uses(finished).reference[name]
    ]


def test_files_that_were_changed_are_not_taken_in(workspace: Path) -> None:
    for part in parts_of(store_folder(workspace), "datasets"):
        (part / "manifest.json").unlink()
    tar = workspace / "artifacts" / "shard" / "000000.tar"
    data = bytearray(tar.read_bytes())
    data[700] ^= 1
    replace(tar, bytes(data))
    assert [str(tar) in note for note in update(workspace)] == [True]
    assert parts_of(store_folder(workspace), "datasets") == []


def test_a_set_that_fails_in_several_stages_is_counted_once_and_where_it_failed_first(
    workspace: Path, finished: Path
) -> None:
    key = next(key for key, own in known.records(finished, "select").items() if not own["kept"])
    held_out = load_index(finished / "artifacts" / "render").summary["held_out_sets"][0]
    for stage, failed in {"generate": (key, held_out), "score": (key,), "select": (key, held_out)}.items():
        path = workspace / "artifacts" / stage / "index.json"
        index = json.loads(path.read_bytes())
        index["failed"] += [{"key": name, "reason": "revoked", "detail": ""} for name in failed]
        replace(path, json.dumps(index).encode())
    reseal_from(workspace, "generate", "shard")
    assert update(workspace)[0].startswith("audit: the train stage")
    before, after = (dataset_here(own) for own in (finished, workspace))
    store = open_store(workspace)
    rows = store.rows("SELECT set_id, fate, stage FROM sets WHERE dataset_sha256 = ?", [after])
    assert len({row["set_id"] for row in rows}) == len(rows)
    assert [row for row in rows if row["set_id"] in (key, held_out)] == [
        {"set_id": name, "fate": "failed", "stage": "generate"} for name in (key, held_out)
    ]
    fates = [trace(store, version)["fates"] for version in (before, after)]
    first, second = (sum(row["count"] for row in own if row["what"] == "set") for own in fates)
    assert first == second
    assert diff(store, after, before)["sets"] == []
    assert len(trace(store, key)["found"]) == 2


def test_without_a_dataset_there_is_nothing_to_ask(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="no dataset has been published here"):
        open_store(tmp_path)
    assert list(tmp_path.iterdir()) == []
