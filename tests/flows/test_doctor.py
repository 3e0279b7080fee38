"""The doctor: what is broken is called broken, and comes with its fix."""

import importlib.metadata
from pathlib import Path

import pytest
from chat_server import serving
from fake_workspace import RUNTIME

from configs.load import load_recipe
from configs.schema import ModelRef, Runtime
from data.sandbox.confinement import Confinement
from flows import doctor
from flows.doctor import Check

SMALL = ModelRef(name="llm", architecture="causal_lm", source="server:small", revision="1", licence="MIT")


def test_a_package_of_the_wrong_version_or_none_is_named() -> None:
    installed = {"fastapi": "0.155.1", "torch": "2.13.0+cpu"}

    def version_of(name: str) -> str:
        try:
            return installed[name]
        except KeyError as error:
            raise importlib.metadata.PackageNotFoundError from error

    required = ["fastapi<0.155", "torch==2.13.0", "dvc==3.67.1", 'ruff>=0.14; extra == "dev"']
    assert list(doctor._wrong_pins(required, version_of)) == [
        "fastapi is 0.155.1, needs <0.155",
        "dvc is missing, needs ==3.67.1",
    ]


def test_a_runner_without_its_package_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor._runner(RUNTIME).detail == "process, 2 workers"
    dask = RUNTIME.model_copy(update={"runner": "dask", "cluster": "tcp://host:8786"})
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    lacking = doctor._runner(dask)
    assert (lacking.verdict, lacking.fix) == ("broken", "pip install -c constraints.txt -e '.[dask]'")
    assert "prefect-dask is not installed" in lacking.detail


def test_too_little_disk_is_broken(tmp_path: Path) -> None:
    assert doctor._disk(tmp_path, RUNTIME).verdict == "ok"
    full = doctor._disk(tmp_path / "not" / "there", RUNTIME.model_copy(update={"min_free_disk_gb": 1e9}))
    assert full.verdict == "broken"
    assert "syncd gc" in full.fix


def test_a_rendering_back_end_that_crashes_is_broken_with_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PROBE", "import sys; sys.exit('no EGL device')")
    check = doctor._rendering()
    assert (check.verdict, check.detail) == ("broken", "no EGL device")
    assert "libegl1" in check.fix


def test_a_kernel_that_cannot_lock_meshes_in_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.sandbox.client.probe", lambda: Confinement(landlock=0, privileges_dropped=True))
    assert doctor._meshes().verdict == "note" and "5.13" in doctor._meshes().fix
    monkeypatch.setattr("data.sandbox.client.probe", lambda: Confinement(landlock=7, privileges_dropped=True))
    assert doctor._meshes().verdict == "ok" and "Landlock 7, as nobody" in doctor._meshes().detail


def test_a_model_that_is_not_there_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNCD_MINIATURE_WEIGHTS", str(tmp_path))
    checks = list(doctor._models(load_recipe("miniature"), RUNTIME))
    assert len(checks) == 6
    assert {check.verdict for check in checks} == {"broken"}
    assert all(check.fix for check in checks)


def test_a_production_recipe_says_what_is_missing_and_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    recipe = load_recipe("flux-rigid")
    found = {check.name: check for check in doctor._models(recipe, RUNTIME)}
    assert set(found) == {
        f"model {role}" for role in ("generator", "customizer", "clip", "quality", "identity", "writer")
    }
    assert {check.verdict for check in found.values()} == {"broken"}
    assert "hf download black-forest-labs/FLUX.1-Depth-dev --revision fb5e9b1b" in found["model generator"].fix
    assert "curl -fL" in found["model quality"].fix and "linearMSE.pth" in found["model quality"].fix
    assets = doctor._assets(tmp_path, recipe, RUNTIME)
    assert (assets.verdict, assets.detail) == ("broken", "assets.captions is not set")
    assert "Cap3D" in assets.fix
    assert doctor._assets(tmp_path, load_recipe("miniature"), RUNTIME).verdict == "ok"


def test_a_model_behind_a_server_is_asked_for_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNCD_TEST_KEY", "secret")
    with serving() as server:
        known = RUNTIME.model_copy(update={"llm_base_url": server.url, "llm_key_variable": "SYNCD_TEST_KEY"})
        assert doctor._server("writer", SMALL, known).verdict == "ok"
        other = doctor._server("writer", SMALL.model_copy(update={"source": "server:large"}), known)
        assert (other.verdict, other.detail, other.fix) == (
            "broken",
            f"{server.url} lists small",
            "serve large there",
        )
    gone = doctor._server("writer", SMALL, known)
    assert gone.verdict == "broken" and "cannot be reached" in gone.detail and "llm_base_url" in gone.fix
    assert "llm_base_url is not set" in doctor._server("writer", SMALL, RUNTIME).detail


def test_every_check_that_is_not_ok_has_a_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_rendering", lambda: Check("rendering", "ok", ""))
    for check in doctor.examine(tmp_path, None, RUNTIME):
        assert check.verdict == "ok" or check.fix


def test_what_a_training_lacks_is_named(tmp_path: Path) -> None:
    recipe = load_recipe("miniature")
    assert doctor._training(tmp_path, recipe, Runtime()).detail == "1 process"
    unknown = doctor._training(tmp_path, recipe, Runtime(trackers=("notes",)))
    assert unknown.verdict == "broken" and "trackers names 'notes'; allowed: " in unknown.detail
    (tmp_path / "web").mkdir()
    mixed = load_recipe("miniature", ("train.pairs=web", "train.pairs_share=0.1"))
    empty = doctor._training(tmp_path, mixed, Runtime())
    assert empty.verdict == "broken" and "holds no .tar" in empty.detail
    (tmp_path / "web" / "0.tar").write_bytes(b"")
    assert doctor._training(tmp_path, mixed, Runtime()).detail == "1 process, 1 tars of text-image pairs"


def test_a_store_is_tried_out_by_writing_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime(store=f"file://{tmp_path}/store")
    assert [check.verdict for check in doctor._store(runtime)] == ["ok"]
    assert list((tmp_path / "store").iterdir()) == []
    assert list(doctor._store(Runtime())) == []
    monkeypatch.setattr("data.store.Store.create", lambda self, name, data: True)
    (check,) = doctor._store(runtime)
    assert (check.verdict, "lets a name be written twice" in check.detail) == ("broken", True)
    monkeypatch.undo()
    (tmp_path / "file").touch()
    (check,) = doctor._store(Runtime(store=f"file://{tmp_path}/file/store"))
    assert check.verdict == "broken" and check.fix
