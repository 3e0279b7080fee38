"""Which objects a take-down is of: by the stage's kind of key, never by how names begin."""

from pathlib import Path

import pytest
import trimesh
from audited_workspace import RUNTIME

from data.ids import object_of
from data.revocation import Revoked
from data.shards import load_index
from flows.engine import run_stage
from flows.revoke import bury, find_affected, purge_earlier, tombstone_of
from flows.runners import serial
from flows.workspace import choose_recipe, prepare_workspace

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


def test_objects_whose_names_begin_alike_stay_and_copies_are_named(workspace: Path) -> None:
    affected = find_affected(workspace, "lamp")
    assert [(use.stage, use.keys) for use in affected.stages] == [("assets", ("lamp",))]
    assert affected.copies == ("chair",)
    assert bury(workspace, affected, "asked") == tombstone_of(workspace, "lamp")
    run_stage("assets", workspace, RUNTIME, serial)
    index = load_index(workspace / "artifacts" / "assets")
    assert [(failure.key, failure.reason) for failure in index.failed] == [("lamp", "revoked")]
    assert set(index.keys) == set(NAMES[1:])


def test_the_report_goes_with_what_is_purged_and_an_evaluation_of_others_stays(workspace: Path) -> None:
    artifacts = workspace / "artifacts"
    for name in ("report/index.html", "provenance/report.intoto.json", "signatures/report.dsse.json"):
        (artifacts / name).parent.mkdir(exist_ok=True)
        (artifacts / name).write_text("a picture of a lamp")
    lock = workspace / "dvc.lock"
    lock.write_text("schema: '2.0'\nstages:\n  assets:\n    cmd: a\n  report:\n    cmd: b\n")
    (workspace / ".dvc" / "cache").mkdir(parents=True, exist_ok=True)
    purge_earlier(workspace, "lamp")
    assert not [path for path in artifacts.rglob("*report*")]
    assert lock.read_text() == "schema: '2.0'\nstages:\n  assets:\n    cmd: a\n"
    assert load_index(artifacts / "assets").keys
