"""Statements: what they hold, that they are stable, and that every kind of tampering is found and named."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from fake_workspace import RUNTIME, bare_workspace

from data.chain import verify_chain
from data.ids import canonical_json
from data.provenance import _model_dependencies, dependencies_of, read_statement, statement_path
from data.shards import ShardError, sha256_file
from flows.engine import run_stage
from flows.runners import serial

STAGES = ("assets", "prompts")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = bare_workspace(tmp_path_factory.mktemp("made"))
    for stage in STAGES:
        run_stage(stage, folder, RUNTIME, serial, package="fake_tasks")
    return folder


@pytest.fixture
def workspace(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "workspace")


def test_a_statement_is_in_toto_v1_with_a_slsa_v1_predicate(made: Path) -> None:
    statement = read_statement(statement_path(made, "assets"))
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    assert set(statement["predicate"]) == {"buildDefinition", "runDetails"}
    build = statement["predicate"]["buildDefinition"]
    assert {"buildType", "externalParameters", "resolvedDependencies"} <= set(build)
    assert statement["predicate"]["runDetails"]["builder"]["id"]


def test_subjects_are_every_file_of_the_stage_with_its_digest(made: Path) -> None:
    for stage in STAGES:
        statement = read_statement(statement_path(made, stage))
        named = {subject["name"]: subject["digest"]["sha256"] for subject in statement["subject"]}
        root = made / "artifacts" / stage
        assert named == {
            path.relative_to(made).as_posix(): sha256_file(path) for path in root.rglob("*") if path.is_file()
        }


def test_a_statement_names_the_statement_and_the_index_before_it_the_code_and_the_environment(made: Path) -> None:
    found = {item["name"]: item for item in dependencies_of(read_statement(statement_path(made, "prompts")))}
    before = statement_path(made, "assets")
    assert found["artifacts/provenance/assets.intoto.json"]["digest"]["sha256"] == sha256_file(before)
    assert found["artifacts/assets/index.json"]["digest"]["sha256"] == sha256_file(made / "artifacts/assets/index.json")
    assert found["code:sources"]["annotations"]["files"] > 10
    assert "torch" in found["environment"]["annotations"]["packages"]


def test_the_resolved_recipe_is_in_the_parameters_and_no_runtime_setting_is(made: Path) -> None:
    statement = read_statement(statement_path(made, "assets"))
    params = statement["predicate"]["buildDefinition"]["externalParameters"]["params"]
    assert params["configs/recipe.yaml"]["assets"]["count"] == 10
    assert "workers" not in json.dumps(statement["predicate"]["buildDefinition"])


def test_a_model_behind_a_server_is_named_without_a_digest_that_nobody_checked() -> None:
    model = {"name": "llm", "source": "server:big", "revision": "v7", "licence": "MIT"}
    (found,) = _model_dependencies({"configs/recipe.yaml": {"models.writer": model, "models.clip": None}})
    assert found == {
        "name": "model:writer",
        "uri": "server:big",
        "annotations": {"name": "llm", "licence": "MIT", "revision": "v7", "verified": False},
    }


def test_times_and_hosts_are_in_run_details_only(made: Path) -> None:
    statement = read_statement(statement_path(made, "assets"))
    details = json.dumps(statement["predicate"].pop("runDetails"))
    moments = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d")
    assert moments.search(details)
    assert not moments.search(json.dumps(statement))


def test_a_statement_is_canonical_json(made: Path) -> None:
    data = statement_path(made, "assets").read_bytes()
    assert data == canonical_json(json.loads(data)) + b"\n"


def test_what_was_made_verifies(made: Path) -> None:
    assert verify_chain(made, STAGES) == []


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.unlink()
    path.write_bytes(data)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.unlink()
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    "name",
    ["artifacts/assets/000001.tar", "artifacts/assets/notes.txt", "artifacts/prompts/failures.jsonl"],
)
def test_a_changed_file_is_named(workspace: Path, name: str) -> None:
    path = workspace / name
    if path.stat().st_size:
        flip(path, 5)
    else:
        path.write_text("{}\n")
    problems = verify_chain(workspace, STAGES)
    assert len(problems) == 1
    assert str(path) in problems[0]


def test_a_file_that_was_slipped_in_is_named(workspace: Path) -> None:
    (workspace / "artifacts/assets/000009.tar").write_bytes(b"")
    assert [str(workspace / "artifacts/assets/000009.tar") in item for item in verify_chain(workspace, STAGES)] == [
        True
    ]


def test_a_changed_index_breaks_its_own_statement_and_the_next(workspace: Path) -> None:
    edit(workspace / "artifacts/assets/index.json", '"objects": 10', '"objects": 11')
    problems = verify_chain(workspace, STAGES)
    assert len(problems) == 2
    assert all(str(workspace / "artifacts/assets/index.json") in problem for problem in problems)


def test_a_changed_parameter_in_a_statement_is_found_by_its_signature_and_by_the_next_statement(
    workspace: Path,
) -> None:
    path = statement_path(workspace, "assets")
    edit(path, '"count":10', '"count":12')
    problems = verify_chain(workspace, STAGES)
    assert any("signature" in problem and str(path) in problem for problem in problems)
    assert any(str(path) in problem and "was made from" in problem for problem in problems)


def test_a_changed_run_detail_is_found_by_the_next_statement(workspace: Path) -> None:
    path = statement_path(workspace, "assets")
    statement = read_statement(path)
    statement["predicate"]["runDetails"]["metadata"]["startedOn"] = "2001-01-01T00:00:00+00:00"
    path.write_bytes(canonical_json(statement) + b"\n")
    problems = verify_chain(workspace, STAGES)
    assert len(problems) == 1
    assert str(path) in problems[0]


def test_a_shard_and_its_index_changed_together_are_still_found(workspace: Path) -> None:
    shard, index = workspace / "artifacts/assets/000001.tar", workspace / "artifacts/assets/index.json"
    before = sha256_file(shard)
    flip(shard, 5)
    edit(index, before, sha256_file(shard))
    assert verify_chain(workspace, STAGES)


def test_a_missing_statement_is_named(workspace: Path) -> None:
    statement_path(workspace, "assets").unlink()
    problems = verify_chain(workspace, STAGES)
    assert f"{statement_path(workspace, 'assets')}: missing" in problems


def test_a_file_that_is_no_statement_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.intoto.json"
    broken: list[Any] = [b"", b"[]", b'{"predicate": {}}']
    for data in broken:
        path.write_bytes(data)
        with pytest.raises(ShardError, match="not a provenance statement"):
            read_statement(path)
