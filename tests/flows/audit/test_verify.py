"""Verification: forgeries whose digests all fit are found by what the records follow from, and the store is checked."""

import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from audited_workspace import STAGES, activate, run
from forged_stages import change_samples, change_table, changed_record, fit_manifest, replace, reseal, reseal_from
from pyarrow import parquet
from typer.testing import CliRunner

from data.audit.parts import parts_of, store_folder
from data.chain import verify_chain
from data.ids import canonical_json
from data.provenance import statement_path
from data.shards import Sample, sha256_file
from flows.audit.checks import check_store
from flows.audit.store import open_store, update
from flows.audit.verify import record_problems, verify
from flows.cli import app


def without(workspace: Path, stage: str) -> Path:
    shutil.rmtree(workspace / "artifacts" / stage)
    statement_path(workspace, stage).unlink()
    return workspace


def deep(workspace: Path, trained: bool = False) -> list[str]:
    return list(record_problems(workspace, trained, lambda line: None, []))


def test_what_was_made_holds(finished: Path) -> None:
    lines: list[str] = []
    verdict = verify(finished, deep=True, tell=lines.append)
    assert verdict.problems == []
    assert verdict.done == list(STAGES) and verdict.missing == ["evaluate", "report"]
    assert "ledger from the seed of the training" in verdict.checked and len(lines) == 8


def first_only(change):
    """`change` on the first sample that it is given."""
    done: list[str] = []

    def once(sample: Sample) -> Sample:
        if done:
            return sample
        done.append(sample.key)
        return change(sample)

    return once


def other_seed(sample: Sample) -> Sample:
    images = [dict(image) for image in sample.record["samples"]]
    images[1]["seed"] += 1
    return changed_record(sample, samples=images)


def other_score(sample: Sample) -> Sample:
    images = [dict(image) for image in sample.record["images"]]
    images[0]["kept"] = not images[0]["kept"]
    return changed_record(sample, images=images)


def other_licence(sample: Sample) -> Sample:
    return changed_record(sample, asset={**sample.record["asset"], "licence": "CC-BY-4.0"})


def swapped_pictures(sample: Sample) -> Sample:
    first, second = [image["index"] for image in sample.record["samples"]][:2]
    files = sample.files
    swapped = {f"{first}.png": files[f"{second}.png"], f"{second}.png": files[f"{first}.png"]}
    return Sample(sample.key, sample.record, {**files, **swapped})


@pytest.mark.parametrize(
    ("stage", "change", "words"),
    [
        ("assets", lambda own: Sample(own.key, own.record, {"glb": own.files["glb"] + b"\0"}), "mesh is"),
        ("render", lambda own: changed_record(own, licence="CC-BY-4.0"), "licence is 'CC-BY-4.0', the stages before"),
        ("generate", other_seed, "samples is"),
        ("select", other_score, "images is"),
        ("shard", other_licence, "asset is"),
        ("shard", swapped_pictures, "is not the one that was generated and kept"),
    ],
    ids=["mesh", "licence", "seed", "decision", "published record", "published images"],
)
def test_a_forgery_whose_digests_fit_is_found_by_the_records_before_it(
    workspace: Path, stage: str, change, words: str
) -> None:
    without(workspace, "train")
    change_samples(workspace, stage, first_only(change))
    assert verify_chain(workspace, STAGES)
    reseal_from(workspace, stage, "shard")
    assert verify_chain(workspace, STAGES) == []
    problems = deep(workspace)
    assert any(words in problem and problem.startswith(f"{stage}/000000.tar: ") for problem in problems)


def test_a_set_that_was_left_out_of_the_dataset_is_found(workspace: Path) -> None:
    without(workspace, "train")
    path = workspace / "artifacts" / "shard" / "index.json"
    index = json.loads(path.read_bytes())
    gone = index["shards"].pop()
    (path.parent / gone["name"]).unlink()
    replace(path, json.dumps(index).encode())
    statement = json.loads(statement_path(workspace, "shard").read_bytes())
    statement["subject"] = [own for own in statement["subject"] if not own["name"].endswith(gone["name"])]
    replace(statement_path(workspace, "shard"), canonical_json(statement))
    reseal(workspace, "shard")
    assert verify_chain(workspace, STAGES) == []
    assert any(gone["keys"][0] in problem for problem in deep(workspace))


@pytest.mark.parametrize("what", ["another target", "a use that was hidden", "a step less"])
def test_a_forged_ledger_is_found_by_the_seed_of_the_training(workspace: Path, what: str) -> None:
    path = workspace / "artifacts" / "train" / "ledger.jsonl"
    rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    place, example = next((i, own) for i, own in enumerate(rows[1]["samples"]) if own.get("references"))
    if what == "another target":
        example["target"], example["references"][0] = example["references"][0], example["target"]
    elif what == "a use that was hidden":
        example |= {"references": [], "flipped": []}
        del example["crops"]
    else:
        rows.pop()
    replace(path, b"".join(canonical_json(row) + b"\n" for row in rows))
    reseal(workspace, "train")
    assert verify_chain(workspace, STAGES) == []
    (problem,) = deep(workspace, trained=True)
    wanted = "2 steps, train.steps is 3" if what == "a step less" else f"step 1, example {place}: "
    assert problem.startswith(f"ledger: {wanted}")


def the_part(workspace: Path, kind: str) -> Path:
    (part,) = parts_of(store_folder(workspace), kind)
    return part


def test_a_changed_store_is_found_and_named(workspace: Path) -> None:
    file = the_part(workspace, "datasets") / "samples.parquet"
    data = bytearray(file.read_bytes())
    data[50] ^= 1
    file.write_bytes(data)
    (problem,) = check_store(workspace, deep=False)
    assert str(file) in problem
    assert verify(workspace).problems == [problem]


def test_a_store_whose_manifest_was_made_to_fit_is_found_by_the_artifacts(workspace: Path) -> None:
    part = the_part(workspace, "datasets")
    change_table(part, "assets", "licence", lambda values: ["CC0-1.0-changed", *values[1:]])
    assert check_store(workspace, deep=False) == []
    (problem,) = check_store(workspace, deep=True)
    assert problem.startswith(f"{part / 'assets.parquet'}: not what the artifacts give")


def test_the_records_of_an_earlier_version_are_checked_without_its_artifacts(workspace: Path) -> None:
    for stage in STAGES:
        without(workspace, stage)
    assert check_store(workspace, deep=True) == []
    part = the_part(workspace, "checkpoints")
    change_table(part, "ledger", "sample_id", lambda values: [values[-1], *values[1:]])
    (problem,) = check_store(workspace, deep=False)
    assert problem.startswith(f"{part}: its ledger gives a file ")
    dataset = the_part(workspace, "datasets")
    change_table(dataset, "sets", "shard_sha256", lambda values: ["0" * 64, *values[1:]])
    change_table(dataset, "statements", "body", lambda values: [values[0].replace("CC0", "CC1"), *values[1:]])
    problems = check_store(workspace, deep=False)
    assert any("which its statement does not name" in problem for problem in problems)
    assert any("statement of assets is" in problem for problem in problems)
    assert any("the chain holds" in problem for problem in problems)


def tamper_with_licence(workspace: Path) -> tuple[Path, bytes]:
    """A record of the assets says another licence, in as many bytes. The tar, and what it was."""
    tar = workspace / "artifacts" / "assets" / "000000.tar"
    good = tar.read_bytes()
    replace(tar, good.replace(b'"licence":"CC0-1.0"', b'"licence":"SCEA   "', 1))
    assert tar.read_bytes() != good
    return tar, good


def test_a_tampered_record_is_not_taken_into_the_store(workspace: Path) -> None:
    shutil.rmtree(store_folder(workspace))
    tar, good = tamper_with_licence(workspace)
    (note,) = update(workspace)
    assert f"{tar}: sha256" in note and parts_of(store_folder(workspace), "datasets") == []
    replace(tar, good)
    assert verify(workspace).problems == []
    assert open_store(workspace).rows("SELECT DISTINCT licence FROM assets") == [{"licence": "CC0-1.0"}]


def test_a_rejection_that_was_changed_is_not_taken_into_the_store(workspace: Path) -> None:
    shutil.rmtree(store_folder(workspace))
    file = workspace / "artifacts" / "assets" / "rejected.jsonl"
    replace(file, b'{"id":"x","reason":"y","detail":"z","uri":""}\n')
    (note,) = update(workspace)
    assert str(file) in note


def test_nothing_is_taken_in_while_there_are_problems(workspace: Path) -> None:
    shutil.rmtree(store_folder(workspace))
    stray = workspace / "artifacts" / "shard" / "stray.txt"
    stray.write_text("")
    assert len(verify(workspace).problems) == 1
    assert not store_folder(workspace).exists()
    stray.unlink()
    assert verify(workspace).problems == []
    assert len(parts_of(store_folder(workspace), "datasets")) == 1


def test_a_hidden_use_is_found_without_deep(workspace: Path) -> None:
    part = the_part(workspace, "checkpoints")
    file = part / "ledger.parquet"
    rows = parquet.read_table(file)
    hidden = next(name for name in rows["sample_id"].to_pylist() if name)
    parquet.write_table(rows.filter(pa.array([name != hidden for name in rows["sample_id"].to_pylist()])), file)
    fit_manifest(part)
    (problem,) = verify(workspace).problems
    assert problem.startswith(f"{part}: its ledger gives a file ")


def test_a_part_speaks_of_its_own_dataset_only(workspace: Path) -> None:
    part = the_part(workspace, "datasets")
    change_table(part, "samples", "dataset_sha256", lambda values: ["0" * 64, *values[1:]])
    (problem,) = check_store(workspace, deep=False)
    assert problem.startswith(f"{part / 'samples.parquet'}: 1 rows are not of dataset ")


@pytest.mark.parametrize("body", ["x", "{}", "[" * 100_000, "[]", '{"predicate":[],"subject":5}'])
def test_a_part_whose_statements_are_none_is_named(workspace: Path, body: str) -> None:
    part = the_part(workspace, "datasets")
    change_table(part, "statements", "body", lambda values: [body, *values[1:]])
    (problem,) = check_store(workspace, deep=False)
    assert problem.startswith(f"{part / 'statements.parquet'}: the statement of assets is none (")


@pytest.mark.parametrize("kind", ["other columns", "other types", "no Parquet", "other rows"])
def test_a_table_of_another_form_is_named(workspace: Path, kind: str) -> None:
    part = the_part(workspace, "datasets")
    file = part / "statements.parquet"
    table = parquet.read_table(file)
    if kind == "other columns":
        parquet.write_table(pa.table({"a": [1]}), file)
    elif kind == "other types":
        parquet.write_table(table.set_column(1, "stage", pa.array(range(len(table)))), file)
    elif kind == "no Parquet":
        file.write_bytes(b"x")
    else:
        parquet.write_table(table.slice(1), file)
    fit_manifest(part, rows=len(table))
    (problem,) = check_store(workspace, deep=False)
    assert problem.startswith(f"{file}: ")


def test_a_statement_whose_time_is_a_number_is_told(workspace: Path) -> None:
    shutil.rmtree(store_folder(workspace))
    path = statement_path(workspace, "train")
    statement = json.loads(path.read_bytes())
    statement["predicate"]["runDetails"]["metadata"]["startedOn"] = 1_700_000_000
    replace(path, canonical_json(statement) + b"\n")
    (note,) = update(workspace)
    assert note.startswith("audit: the train stage is not taken into the store: ")


@pytest.mark.parametrize("error", [PermissionError, NotADirectoryError])
def test_a_store_that_cannot_be_written_is_a_warning(
    workspace: Path, error: type[OSError], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if error is NotADirectoryError:
        shutil.rmtree(store_folder(workspace))
        store_folder(workspace).write_text("")
    else:
        shutil.rmtree(store_folder(workspace) / "checkpoints")
        real = os.mkdir

        def mkdir(path: object, *rest: object) -> None:
            if Path(str(path)).is_relative_to(store_folder(workspace)):
                raise PermissionError(13, "Permission denied", str(path))
            real(path, *rest)

        monkeypatch.setattr(os, "mkdir", mkdir)
    verdict = verify(workspace, deep=True)
    assert verdict.problems == []
    (warning,) = verdict.warnings
    assert warning.startswith(f"{store_folder(workspace)}: the audit store was not brought up to date (")
    assert ("audit store" in verdict.checked) == (error is PermissionError)
    if error is PermissionError:
        assert len(open_store(workspace).parts) == 1
        assert "WARNING: " in capsys.readouterr().err


def test_of_earlier_datasets_it_says_that_only_statements_are_checked(workspace: Path) -> None:
    earlier = sha256_file(workspace / "artifacts" / "shard" / "index.json")
    assert verify(workspace).earlier == []
    activate(workspace, "train.pairs_share=0.0", "shard.title=Second")
    without(workspace, "train")
    run(workspace, "shard")
    verdict = verify(workspace)
    assert (verdict.problems, verdict.earlier) == ([], [earlier])
    said = CliRunner().invoke(app, ["verify", "-w", str(workspace)]).stdout
    assert f"earlier datasets in the audit store: {earlier[:16]}; of these only the statements are checked" in said
