"""Every way of tampering that the project promises to find: which command finds it, and that it names the file.

What happened in each case is told in benchmarks/results/hostile.md.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import chdir
from datetime import UTC, datetime, tzinfo
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fake_tasks import attempts
from fake_workspace import (
    RUNTIME,
    SMALL,
    TESTS,
    activate,
    bare_workspace,
    digests,
    dvc_workspace,
    make_trouble,
    no_trouble,
    subprocess_environment,
)
from hostile.workspaces import (
    STAGES,
    flip,
    forge,
    made,
    positions,
    problems_of,
    restore,
    rewrite,
    signing,
    trained,
)
from typer.testing import CliRunner

from configs.errors import ConfigError
from configs.load import dump_recipe, load_recipe
from data.ids import canonical_json
from data.provenance import dependencies_of, statement_path
from data.shards import ShardError, ShardWriter, load_index, receipt_path, sha256_file
from data.signing import envelope_path, make_keys, pinned_keys
from flows import publishing
from flows.batch import run_share
from flows.cli import app
from flows.engine import run_stage
from flows.history import receipts_in, work_folder
from flows.runners import serial
from flows.verify import warnings_of
from flows.workspace import SIGNING_KEY_VARIABLE


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    os.environ.pop(SIGNING_KEY_VARIABLE, None)
    return make_keys(tmp_path_factory.mktemp("keys"), None)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, keys: tuple[Path, Path]) -> Path:
    return made(tmp_path_factory.mktemp("tampering") / "original", keys[0])


@pytest.fixture
def workspace(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "workspace")


@pytest.fixture
def pinned(keys: tuple[Path, Path]) -> dict[str, object]:
    return pinned_keys([keys[1]])


def test_what_was_not_touched_verifies(workspace: Path, pinned: dict[str, object]) -> None:
    assert problems_of(workspace, pinned) == []
    assert warnings_of(workspace) == []


FILES = {
    "a tar": ("artifacts/assets/000001.tar", 20),
    "an index": ("artifacts/assets/index.json", 30),
    "the index of the last stage": ("artifacts/prompts/index.json", 30),
    "a statement": ("artifacts/provenance/assets.intoto.json", 40),
    "the last statement": ("artifacts/provenance/prompts.intoto.json", 40),
}


@pytest.mark.parametrize("what", FILES)
def test_a_flipped_byte_anywhere_is_found_and_its_file_named(
    workspace: Path, pinned: dict[str, object], what: str
) -> None:
    name, count = FILES[what]
    path = workspace / name
    before = path.read_bytes()
    for turn, at in enumerate(positions(len(before), count)):
        flip(path, at, turn % 8)
        found = problems_of(workspace, pinned)
        assert any(str(path) in problem for problem in found), f"byte {at} of {name}: {found}"
        rewrite(path, before)
    assert problems_of(workspace, pinned) == []


def test_a_stage_that_was_taken_out_of_the_pipeline_is_still_looked_for(
    workspace: Path, pinned: dict[str, object]
) -> None:
    path = workspace / "dvc.yaml"
    stages = yaml.safe_load(path.read_text())["stages"]
    del stages["prompts"]
    path.write_text(yaml.safe_dump({"stages": stages}))
    found = problems_of(workspace, pinned)
    for left in ("artifacts/prompts", "artifacts/provenance/prompts.intoto", "artifacts/signatures/prompts.dsse"):
        assert any(str(workspace / left) in problem and "dvc.yaml lacks" in problem for problem in found), left


def test_nothing_at_all_is_not_signed_by_a_pinned_key(tmp_path: Path, pinned: dict[str, object]) -> None:
    (bare_workspace(tmp_path) / ".dvc").mkdir()
    assert problems_of(tmp_path) == []
    assert any("no stage has run here" in problem for problem in problems_of(tmp_path, pinned))


@pytest.mark.parametrize("where", ["an index", "a dependency"])
def test_names_that_lead_elsewhere_are_refused_and_not_read(workspace: Path, where: str) -> None:
    name = "../" * 12 + "dev/zero"
    if where == "an index":
        path = workspace / "artifacts/prompts/index.json"
        content = json.loads(path.read_bytes())
        content["files"][0]["name"] = name
    else:
        path = statement_path(workspace, "prompts")
        content = json.loads(path.read_bytes())
        dependencies_of(content)[0]["name"] = f"artifacts/{name}"
    rewrite(path, canonical_json(content) + b"\n")
    assert any(str(path) in problem and "dev/zero" in problem for problem in problems_of(workspace))


def test_links_to_folders_and_pipes_in_an_output_are_named(workspace: Path) -> None:
    folder = workspace / "artifacts" / "assets"
    (folder / "more").symlink_to(workspace / "configs")
    os.mkfifo(folder / "pipe")
    found = problems_of(workspace)
    assert all(any(f"{folder / name}: in the folder" in problem for problem in found) for name in ("more", "pipe"))


BAD_STATEMENTS = {
    "nested too deeply": lambda text: b"[" * 100_000,
    "a time as a number": lambda text: re.sub(rb'"startedOn":"[^"]*"', b'"startedOn":1700000000', text),
    "a time as digits": lambda text: re.sub(rb'"startedOn":"[^"]*"', b'"startedOn":"1700000000"', text),
    "no number": lambda text: text.replace(b'"_type":', b'"x":NaN,"_type":'),
    "half a character": lambda text: text.replace(b'"_type":', b'"x":"\\ud800","_type":'),
    "nothing": lambda text: b"",
}


@pytest.mark.parametrize("kind", BAD_STATEMENTS)
def test_a_statement_that_is_none_is_a_problem_that_names_it(workspace: Path, kind: str) -> None:
    path = statement_path(workspace, "assets")
    rewrite(path, BAD_STATEMENTS[kind](path.read_bytes()))
    shown = CliRunner().invoke(app, ["verify", "-w", str(workspace)])
    assert shown.exit_code == 1 and f"{path}: not a provenance statement" in shown.stderr


@pytest.mark.parametrize("name", ["artifacts/assets/index.json", "artifacts/provenance/assets.intoto.json"])
def test_a_folder_in_place_of_a_file_is_named(workspace: Path, name: str) -> None:
    (workspace / name).unlink()
    (workspace / name).mkdir()
    assert any(f"{workspace / name}: no file" in problem for problem in problems_of(workspace))


@pytest.mark.parametrize("data", [b"stages: [", b"\xff\xfe", b"stages: 5\n", b"a"])
def test_a_pipeline_that_cannot_be_read_is_one_clear_error(workspace: Path, data: bytes) -> None:
    (workspace / "dvc.yaml").write_bytes(data)
    with pytest.raises(ConfigError, match=r"dvc\.yaml: .*bring it back from git"):
        problems_of(workspace)


@pytest.mark.parametrize("field", ["payload", "sig"])
def test_a_flipped_byte_in_an_envelope_is_found(workspace: Path, pinned: dict[str, object], field: str) -> None:
    """But for the key's id, which DSSE leaves open and which decides nothing, and the bits that pad Base64."""
    path = envelope_path(workspace, "prompts")
    before = path.read_bytes()
    start = before.index(f'"{field}":"'.encode()) + len(field) + 4
    for turn, at in enumerate(positions(before.index(b'"', start) - 4 - start, 16)):
        flip(path, start + at, turn % 8)
        assert any(str(path) in problem for problem in problems_of(workspace, pinned)), f"byte {at} of {field}"
        rewrite(path, before)


def test_a_flipped_byte_in_a_receipt_is_found_by_verify_and_its_shard_is_made_again(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = load_index(workspace / "artifacts/assets")
    path = receipt_path(work_folder(workspace, "assets", index.signature), 1)
    before = path.read_bytes()
    for turn, at in enumerate(positions(len(before), 40)):
        flip(path, at, turn % 8)
        assert any(str(path) in problem for problem in problems_of(workspace)), f"byte {at}"
        rewrite(path, before)
    first = digests(workspace, "assets")
    flip(path, before.index(b'"seconds"') + 12)
    assert [receipt.index for receipt in receipts_in(path.parent)] == [0, 2, 3]
    assert run_stage("assets", workspace, RUNTIME, serial, package="fake_tasks").reused == 3
    assert f"{path}: not a receipt" in capsys.readouterr().err
    assert digests(workspace, "assets") == first


def test_a_receipt_for_other_bytes_is_no_receipt_of_what_was_published(workspace: Path) -> None:
    index = load_index(workspace / "artifacts/assets")
    folder = work_folder(workspace, "assets", index.signature)
    first, second = receipts_in(folder)[:2]
    forged = first.model_copy(update={"sha256": second.sha256, "checksum": ""})
    whole = type(first).model_validate(forged.model_dump())
    rewrite(receipt_path(folder, 0), whole.model_dump_json(indent=1).encode())
    (found,) = problems_of(workspace)
    assert found.startswith(f"{receipt_path(folder, 0)}: not the receipt of what ")


def test_a_receipt_cannot_name_a_file_elsewhere(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = load_index(workspace / "artifacts/assets")
    folder = work_folder(workspace, "assets", index.signature)
    first = receipts_in(folder)[0]
    elsewhere = type(first).model_validate(first.model_dump() | {"name": "../../../evil.tar", "checksum": ""})
    rewrite(receipt_path(folder, 0), elsewhere.model_dump_json(indent=1).encode())
    assert run_stage("assets", workspace, RUNTIME, serial, package="fake_tasks").reused == 3
    assert "not a receipt" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["pytorch_lora_weights.safetensors", "000000.tar"])
def test_a_flipped_byte_in_a_checkpoint_is_found(
    tmp_path: Path, keys: tuple[Path, Path], pinned: dict[str, object], name: str
) -> None:
    workspace = trained(tmp_path / "work", keys[0])
    assert problems_of(workspace, pinned) == []
    path = workspace / "artifacts/train" / name
    before = path.read_bytes()
    for turn, at in enumerate(positions(len(before), 12)):
        flip(path, at, turn % 8)
        assert any(str(path) in problem for problem in problems_of(workspace, pinned)), f"byte {at} of {name}"
        rewrite(path, before)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unsigned workspace that DVC has recorded."""
    from dvc.repo import Repo

    folder = dvc_workspace(tmp_path_factory.mktemp("recorded") / "work")
    for stage in STAGES:
        run_stage(stage, folder, RUNTIME, serial, package="fake_tasks")
    with chdir(folder), Repo() as repo:
        repo.commit(force=True)
    return folder


def test_dvc_commit_over_a_tampered_output_leaves_dvc_content_and_verify_not(recorded: Path, tmp_path: Path) -> None:
    from dvc.repo import Repo

    folder = shutil.copytree(recorded, tmp_path / "work", symlinks=True)
    assert problems_of(folder) == []
    path = folder / "artifacts/prompts/000001.tar"
    path.parent.chmod(0o755)
    flip(path, 700)
    with chdir(folder), Repo() as repo:
        assert repo.status() != {}
        repo.commit(force=True)
        assert repo.status() == {}
    (found,) = problems_of(folder)
    assert found.startswith(f"{path}: sha256")


def test_a_flipped_byte_in_an_unsigned_last_statement_is_found_by_what_dvc_recorded(
    recorded: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(recorded, tmp_path / "work", symlinks=True)
    path = statement_path(folder, "prompts")
    before = path.read_bytes()
    for turn, at in enumerate(positions(len(before), 30)):
        flip(path, at, turn % 8)
        assert any(str(path) in problem for problem in problems_of(folder)), f"byte {at}"
        rewrite(path, before)
    rewrite(folder / "dvc.lock", b"stages: [")
    assert any("not a lock file of DVC" in problem for problem in problems_of(folder))


def test_swapped_shards_are_both_named(workspace: Path) -> None:
    one, two = (workspace / f"artifacts/assets/00000{number}.tar" for number in (0, 1))
    first, second = one.read_bytes(), two.read_bytes()
    rewrite(one, second)
    rewrite(two, first)
    found = problems_of(workspace)
    assert len(found) == 2 and str(one) in found[0] and str(two) in found[1]


def test_shards_swapped_together_with_their_entries_in_the_index_are_found(workspace: Path) -> None:
    one, two = (workspace / f"artifacts/assets/00000{number}.tar" for number in (0, 1))
    first, second = one.read_bytes(), two.read_bytes()
    rewrite(one, second)
    rewrite(two, first)
    file = workspace / "artifacts/assets/index.json"
    index = load_index(file.parent)
    names = [entry.name for entry in index.shards]
    swapped = [index.shards[1], index.shards[0], *index.shards[2:]]
    renamed = [entry.model_copy(update={"name": name}) for entry, name in zip(swapped, names, strict=True)]
    rewrite(file, index.model_copy(update={"shards": renamed}).model_dump_json(indent=1).encode())
    found = problems_of(workspace)
    assert any(str(one) in problem and "assets.intoto.json says" in problem for problem in found)
    assert any(problem.startswith(f"{file}: ") and "was made from" in problem for problem in found)


def test_a_forged_chain_agrees_with_itself_and_is_unsigned(workspace: Path, pinned: dict[str, object]) -> None:
    forge(workspace, None)
    assert problems_of(workspace) == []
    shown = CliRunner().invoke(app, ["verify", "-w", str(workspace)])
    assert shown.exit_code == 0 and "signatures: unsigned" in shown.stdout
    for stage, problem in zip(STAGES, problems_of(workspace, pinned), strict=True):
        assert problem.startswith(f"{envelope_path(workspace, stage)}: missing")


def test_a_forged_chain_that_was_signed_again_fails_on_the_pinned_key(
    workspace: Path, pinned: dict[str, object]
) -> None:
    forge(workspace, Ed25519PrivateKey.generate())
    shown = CliRunner().invoke(app, ["verify", "-w", str(workspace)])
    assert shown.exit_code == 0 and "signed, key not checked (keyid" in shown.stdout
    found = problems_of(workspace, pinned)
    assert len(found) == len(STAGES)
    for stage, problem in zip(STAGES, found, strict=True):
        assert problem.startswith(f"{envelope_path(workspace, stage)}: no signature by a pinned key")


def test_a_forged_chain_under_the_old_envelopes_is_found_without_any_key(workspace: Path) -> None:
    kept = {stage: envelope_path(workspace, stage).read_bytes() for stage in STAGES}
    forge(workspace, None)
    for stage, data in kept.items():
        envelope_path(workspace, stage).write_bytes(data)
    for stage, problem in zip(STAGES, problems_of(workspace), strict=True):
        assert problem.startswith(f"{envelope_path(workspace, stage)}: signs another statement")


def test_a_forged_statement_that_names_no_input_is_found(workspace: Path) -> None:
    from hostile import workspaces

    kept = dict(workspaces.INPUTS)
    workspaces.INPUTS["prompts"] = ()
    try:
        forge(workspace, None)
    finally:
        workspaces.INPUTS.update(kept)
    found = problems_of(workspace)
    assert len(found) == 1
    assert found[0].startswith(
        f"{statement_path(workspace, 'prompts')}: names the inputs []; by dvc.yaml prompts reads"
    )


@pytest.fixture
def earlier(tmp_path: Path, keys: tuple[Path, Path]) -> Path:
    """The same recipe, run and signed by the same key at another time."""
    return made(tmp_path / "earlier", keys[0])


def test_an_older_signed_statement_put_back_breaks_the_chain(
    workspace: Path, earlier: Path, pinned: dict[str, object]
) -> None:
    assert statement_path(earlier, "assets").read_bytes() != statement_path(workspace, "assets").read_bytes()
    restore(earlier, workspace, "assets")
    (found,) = problems_of(workspace, pinned)
    assert found.startswith(f"{statement_path(workspace, 'assets')}: ") and "prompts.intoto.json was made from" in found


def test_a_whole_older_chain_is_found_where_the_recipe_has_changed_since(
    workspace: Path, tmp_path: Path, keys: tuple[Path, Path], pinned: dict[str, object]
) -> None:
    later = made(tmp_path / "later", keys[0], "seed=7")
    for stage in STAGES:
        restore(workspace, later, stage)
    found = problems_of(later, pinned)
    told = [problem for problem in found if "configs/recipe.yaml.seed 0, active 7" in problem]
    for stage, problem in zip(STAGES, told, strict=True):
        assert problem.startswith(f"{statement_path(later, stage)}: made with another recipe")


def test_a_whole_older_chain_of_the_same_recipe_is_what_it_says_and_shows_its_digest(
    earlier: Path, pinned: dict[str, object]
) -> None:
    """No file in the workspace can tell that it is not the newest: the digest that verify prints must be compared with
    the one that was published."""
    assert problems_of(earlier, pinned) == []
    shown = CliRunner().invoke(app, ["verify", "-w", str(earlier)])
    assert f"last statement: prompts {sha256_file(statement_path(earlier, 'prompts'))}" in shown.stdout


def test_a_statement_of_another_recipe_is_named_with_what_differs(
    workspace: Path, tmp_path: Path, keys: tuple[Path, Path], pinned: dict[str, object]
) -> None:
    other = made(tmp_path / "other", keys[0], "prompts.min_words=3")
    restore(other, workspace, "prompts")
    found = [problem for problem in problems_of(workspace, pinned) if "another recipe" in problem]
    assert len(found) == 1
    assert found[0].startswith(f"{statement_path(workspace, 'prompts')}: made with another recipe: ")
    assert "configs/recipe.yaml.prompts.min_words 3, active 4" in found[0]
    alone = shutil.copytree(workspace, tmp_path / "alone")
    shutil.copy(statement_path(other, "prompts"), statement_path(alone, "prompts"))
    assert any(str(statement_path(alone, "prompts")) in problem for problem in problems_of(alone))


def test_a_statement_of_another_stage_put_in_place_is_named(workspace: Path) -> None:
    shutil.copy(statement_path(workspace, "assets"), statement_path(workspace, "prompts"))
    found = problems_of(workspace)
    path = statement_path(workspace, "prompts")
    assert f"{path}: stage is 'assets', expected 'prompts': it belongs to another stage or was changed" in found


def test_a_budget_that_was_raised_afterwards_is_no_other_recipe(workspace: Path) -> None:
    activate(workspace, "assets.max_failed_fraction=0.5")
    assert problems_of(workspace) == []


class SetBack(datetime):
    """A clock an hour behind."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:
        return datetime.fromtimestamp(time.time() - 3600, tz or UTC)


def test_a_clock_that_was_set_back_changes_no_byte_and_is_told(
    original: Path, tmp_path: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = bare_workspace(tmp_path / "work")
    (folder / ".dvc").mkdir()
    run_stage("assets", folder, signing(keys[0]), serial, package="fake_tasks")
    monkeypatch.setattr(publishing, "datetime", SetBack)
    run_stage("prompts", folder, signing(keys[0]), serial, package="fake_tasks")
    assert [digests(folder, stage) for stage in STAGES] == [digests(original, stage) for stage in STAGES]
    assert problems_of(folder) == []
    path = statement_path(folder, "prompts")
    told = warnings_of(folder)
    assert any(f"{path}: finished" in text and "before its input assets" in text for text in told)
    shown = CliRunner().invoke(app, ["verify", "-w", str(folder)])
    assert shown.exit_code == 0 and f"WARNING: {path}" in shown.stderr


def test_an_input_that_was_made_again_since_is_no_matter_of_clocks(workspace: Path) -> None:
    recipe = workspace / "configs" / "recipe.yaml"
    recipe.write_text(dump_recipe(load_recipe("miniature", (*SMALL, "seed=9"))))
    run_stage("assets", workspace, RUNTIME, serial, package="fake_tasks")
    assert any("assets.intoto.json" in line for line in problems_of(workspace)), "prompts was made from another one"
    assert warnings_of(workspace) == []


def test_a_time_that_has_not_come_is_told(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows import evidence

    monkeypatch.setattr(evidence, "datetime", SetBack)
    assert sum("has not come yet" in text for text in warnings_of(workspace)) == len(STAGES)


@pytest.fixture
def occupied(workspace: Path) -> Iterator[Path]:
    """The workspace, with another process running in it."""
    code = (
        "import sys; from pathlib import Path; from flows.workspace import locked\n"
        "with locked(Path(sys.argv[1])): print('in', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(workspace)]
    with subprocess.Popen(
        command, env=subprocess_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "in\n"
        yield workspace
        other.stdin.close()


def test_a_second_run_in_one_workspace_is_refused(occupied: Path, keys: tuple[Path, Path]) -> None:
    for command in (["run", "-w", str(occupied)], ["sign", "--key", str(keys[0]), "-w", str(occupied)]):
        refused = CliRunner().invoke(app, command, env={SIGNING_KEY_VARIABLE: str(keys[0])})
        assert isinstance(refused.exception, ConfigError)
        assert "is in use by process" in str(refused.exception)
    assert problems_of(occupied) == []


def test_a_shard_made_beside_a_run_gives_the_same_bytes(tmp_path: Path, original: Path) -> None:
    folder = bare_workspace(tmp_path / "work")
    (folder / ".dvc").mkdir()
    make_trouble(folder, sleep=0.1)
    command = [sys.executable, str(TESTS / "fake_stage.py"), "assets"]
    with subprocess.Popen(command, cwd=folder, env=subprocess_environment()) as run:
        while "assets-1" not in attempts(folder):
            assert run.poll() is None
            time.sleep(0.01)
        next(run_share("assets", 1, None, folder, RUNTIME, package="fake_tasks"))
        assert run.wait() == 0
    assert digests(folder, "assets") == digests(original, "assets")
    no_trouble(folder)
    assert run_stage("assets", folder, RUNTIME, serial, package="fake_tasks").reused == 4
    assert problems_of(folder) == []


def test_a_shard_still_being_made_when_a_run_publishes_ends_in_a_clear_error(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "assets", "a" * 64, 1) as late:
        late.add("object-003", {})
        for leftover in tmp_path.glob(".*.tmp"):
            leftover.unlink()
        with pytest.raises(ShardError, match=r"another run published assets and tidied up"):
            late.finish()
    assert list(tmp_path.iterdir()) == []
