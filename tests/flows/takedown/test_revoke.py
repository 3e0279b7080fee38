"""Which objects a take-down is of: by the stage's kind of key, never by how names begin."""

import shutil
from pathlib import Path

import pytest
import trimesh
from audited_workspace import RUNTIME
from syncd_command import syncd

from data.ids import object_of
from data.revocation import Revoked
from data.shards import load_index
from flows.engine import run_stage
from flows.runners import serial
from flows.takedown.revoke import bury, find_affected, purge_earlier, tombstone_of, with_copies
from flows.workspace import choose_recipe, prepare_workspace
from tasks import assets

NAMES = ("lamp", "lamp-shade", "lamp-small", "lamp-s1", "chair")


@pytest.mark.parametrize(
    ("key", "found"),
    [("lamp-s0", "lamp"), ("lamp-s1-s12", "lamp-s1"), ("lamp-shade", ""), ("lamp-small-s0", "lamp-small"), ("x", "")],
)
def test_an_id_of_a_set_ends_in_a_number(key: str, found: str) -> None:
    assert object_of(key) == found


def test_keys_are_held_by_the_kind_of_their_stage() -> None:
    revoked = Revoked(objects=frozenset({"lamp"}))
    assert revoked.holds("assets", "lamp") and revoked.holds("render", "lamp-s1")
    assert not any(revoked.holds("assets", name) for name in NAMES[1:])
    assert not any(revoked.holds("shard", f"{name}-s0") for name in NAMES[1:])
    assert not revoked.holds("train", "customizer")


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A folder of meshes, of which one is there twice."""
    meshes, folder = tmp_path / "meshes", tmp_path / "work"
    meshes.mkdir()
    for place, name in enumerate(NAMES):
        trimesh.creation.box(extents=(1, 1, 1 + place % 4)).export(meshes / f"{name}.glb")
    lines = "".join(f"{name}.glb,a {name.replace('-', ' ')},CC0-1.0\n" for name in NAMES)
    (meshes / "captions.csv").write_text("file,caption,licence\n" + lines)
    folder.mkdir()
    prepare_workspace(folder, choose_recipe(folder, "folder", (f"assets.folder={meshes}",)))
    run_stage("assets", folder, RUNTIME, serial)
    return folder


def take_down(workspace: Path, wanted: str, copies: bool) -> None:
    own, *others = with_copies(workspace, wanted)
    found = [find_affected(workspace, asset) for asset in (own, *(others if copies else ()))]
    bury(workspace, found, "asked", with_files=copies)
    run_stage("assets", workspace, RUNTIME, serial)


def failures(workspace: Path) -> list[tuple[str, str]]:
    return [(own.key, own.reason) for own in load_index(workspace / "artifacts" / "assets").failed]


def test_objects_whose_names_begin_alike_stay(workspace: Path) -> None:
    own, copy = with_copies(workspace, "lamp")
    assert (own.object_id, copy.object_id) == ("lamp", "chair")
    assert [(use.stage, use.keys) for use in find_affected(workspace, own).stages] == [("assets", ("lamp",))]
    take_down(workspace, "lamp", copies=False)
    stone = tombstone_of(workspace, "lamp")
    assert stone is not None and (stone.reason, stone.files) == ("asked", ())
    assert failures(workspace) == [("lamp", "revoked")]
    assert set(load_index(workspace / "artifacts" / "assets").keys) == set(NAMES[1:])


def test_a_file_that_was_taken_down_does_not_come_back_under_another_id(workspace: Path) -> None:
    take_down(workspace, "lamp", copies=True)
    assert failures(workspace) == [("chair", "revoked"), ("lamp", "revoked")]
    meshes = workspace.parent / "meshes"
    shutil.copy(meshes / "lamp.glb", meshes / "new-lamp.glb")
    with (meshes / "captions.csv").open("a") as captions:
        captions.write("new-lamp.glb,a lamp of nobody,CC0-1.0\n")
    prepare_workspace(workspace, choose_recipe(workspace, None, ()))
    assets._opened.cache_clear()  # As in the new process of the next run.
    run_stage("assets", workspace, RUNTIME, serial)
    index = load_index(workspace / "artifacts" / "assets")
    assert ("new-lamp", "revoked_file") in failures(workspace) and "new-lamp" not in index.keys
    assert set(index.keys) == {"lamp-shade", "lamp-small", "lamp-s1"}


def test_a_list_of_before_files_were_listed_is_brought_up_to_date(workspace: Path) -> None:
    path = workspace / "configs" / "revoked.yaml"
    whole = path.read_text()
    path.write_text(whole.replace("files: []\n", ""))
    prepare_workspace(workspace, choose_recipe(workspace, None, ()))
    assert path.read_text() == whole and "files: []" in whole


def test_whether_copies_go_must_be_said(workspace: Path) -> None:
    asked = ("revoke", "--asset", "lamp", "--reason", "asked")
    refused = syncd(workspace, *asked)
    assert refused.returncode == 2 and "as chair; take these down as well: --copies" in refused.stderr
    listed = syncd(workspace, *asked, "--dry-run")
    assert listed.returncode == 0 and "take these down as well: --copies" in listed.stderr
    assert len(load_index(workspace / "artifacts" / "assets").keys) == len(NAMES)


def test_the_report_goes_with_what_is_purged_and_an_evaluation_of_others_stays(workspace: Path) -> None:
    artifacts = workspace / "artifacts"
    for name in ("report/index.html", "provenance/report.intoto.json", "signatures/report.dsse.json"):
        (artifacts / name).parent.mkdir(exist_ok=True)
        (artifacts / name).write_text("a picture of a lamp")
    lock = workspace / "dvc.lock"
    lock.write_text("schema: '2.0'\nstages:\n  assets:\n    cmd: a\n  report:\n    cmd: b\n")
    (workspace / ".dvc" / "cache").mkdir(parents=True, exist_ok=True)
    purge_earlier(workspace)
    assert not [path for path in artifacts.rglob("*report*")]
    assert lock.read_text() == "schema: '2.0'\nstages:\n  assets:\n    cmd: a\n"
    assert load_index(artifacts / "assets").keys
