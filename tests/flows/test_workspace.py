"""Workspaces: recipes are activated, paths keep their meaning, and files that a recipe names are tracked."""

import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_workspace import bare_workspace, subprocess_environment

from configs.errors import ConfigError
from configs.load import load_recipe, load_resolved
from configs.schema import Recipe
from flows import workspace as workspaces
from flows.graph import load_graph, stage_signature, tracked_values
from flows.inputs import check_inputs, input_values, resolve_paths, write_inputs
from flows.workspace import PROJECT, choose_recipe, find_workspace, locked, quiet_environment, run_environment


def folder_recipe(path: str) -> Recipe:
    return load_recipe("folder", (f"assets.folder={path}",))


@pytest.fixture
def meshes(tmp_path: Path) -> Path:
    folder = tmp_path / "meshes"
    (folder / "more").mkdir(parents=True)
    (folder / "cup.glb").write_bytes(b"cup")
    (folder / "more" / "hat.glb").write_bytes(b"hat")
    return folder


def test_a_path_is_meant_from_the_current_folder_and_kept_for_the_workspace(
    tmp_path: Path, meshes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outside = choose_recipe(tmp_path / "work", "folder", ("assets.folder=meshes",))
    assert outside.assets.folder == str(meshes)
    inside = choose_recipe(tmp_path, "folder", ("assets.folder=meshes",))
    assert inside.assets.folder == "meshes"


def test_an_override_of_the_active_recipe_keeps_its_other_paths(
    tmp_path: Path, meshes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = bare_workspace(tmp_path / "work", "assets.source=folder", f"assets.folder={meshes}")
    monkeypatch.chdir("/")
    assert choose_recipe(workspace, None, ("seed=3",)).assets.folder == str(meshes)
    monkeypatch.chdir(tmp_path)
    assert choose_recipe(workspace, None, ("assets.folder=other",)).assets.folder == str(tmp_path / "other")


def test_without_a_recipe_the_error_says_how_to_name_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="syncd run --recipe NAME"):
        choose_recipe(tmp_path, None)
    with pytest.raises(ConfigError, match="is no workspace"):
        find_workspace(tmp_path)


def test_the_digest_of_a_folder_follows_contents_and_names_and_not_times(tmp_path: Path, meshes: Path) -> None:
    section = folder_recipe(str(meshes))
    first = input_values(section, tmp_path)
    os.utime(meshes / "cup.glb", (1, 1))
    assert input_values(section, tmp_path) == first
    (meshes / "cup.glb").write_bytes(b"cap")
    changed = input_values(section, tmp_path)
    assert changed != first
    (meshes / "cup.glb").rename(meshes / "mug.glb")
    assert input_values(section, tmp_path) not in (first, changed)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"assets\.folder is .*nowhere: no such file or folder; set it with --set"):
        input_values(folder_recipe(str(tmp_path / "nowhere")), tmp_path)


def test_a_changed_mesh_changes_the_signature_of_the_assets(tmp_path: Path, meshes: Path) -> None:
    workspace = bare_workspace(tmp_path / "work", "assets.source=folder", f"assets.folder={meshes}")
    graph, recipe = load_graph(workspace), load_resolved(workspace / "configs/recipe.yaml")
    write_inputs(recipe, workspace)
    before = stage_signature(graph, "assets", workspace)
    check_inputs(graph, "assets", recipe, workspace)
    (meshes / "cup.glb").write_bytes(b"another cup")
    with pytest.raises(ConfigError, match="start with syncd run"):
        check_inputs(graph, "assets", recipe, workspace)
    write_inputs(recipe, workspace)
    assert stage_signature(graph, "assets", workspace) != before


def test_paths_of_the_evaluation_are_resolved_and_hashed_row_by_row(
    tmp_path: Path, meshes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = choose_recipe(tmp_path / "work", "miniature", ("evaluate.external.jedi=meshes",))
    assert recipe.evaluate.external == {"jedi": str(meshes)}
    first = input_values(recipe, tmp_path)
    (meshes / "cup.glb").write_bytes(b"cap")
    second = input_values(recipe, tmp_path)
    assert first["evaluate"].keys() == second["evaluate"].keys() == {"external.jedi"}
    assert first != second and first["assets"] == second["assets"] == {}
    workspace = bare_workspace(tmp_path / "bare", f"evaluate.external.jedi={meshes}")
    assert choose_recipe(workspace, None, ("seed=3",)).evaluate.external == {"jedi": str(meshes)}
    with pytest.raises(
        ConfigError, match=r"evaluate\.external\.x is .*gone: no such file or folder; set it with --set ev"
    ):
        input_values(choose_recipe(workspace, None, ("evaluate.external.x=gone",)), tmp_path, ("evaluate",))


def test_pairs_are_resolved_and_part_of_the_signature_of_training_alone(
    tmp_path: Path, meshes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pairs = ("train.pairs=meshes", "train.pairs_share=0.1")
    assert choose_recipe(tmp_path / "work", "miniature", pairs).train.pairs == str(meshes)
    workspace = bare_workspace(tmp_path / "bare", f"train.pairs={meshes}", pairs[1])
    assert choose_recipe(workspace, None, ("train.pairs=more",)).train.pairs == str(tmp_path / "more")
    shutil.copy(PROJECT / "dvc.yaml", workspace / "dvc.yaml")
    graph, recipe = load_graph(workspace), load_resolved(workspace / "configs/recipe.yaml")

    def tracked() -> dict[str, dict[str, Any]]:
        write_inputs(recipe, workspace)
        return {stage: tracked_values(graph.node(stage), workspace) for stage in graph.names}

    before = tracked()
    assert before["train"]["configs/inputs.yaml"]["train"].keys() == {"pairs"}
    (meshes / "cup.glb").write_bytes(b"another")
    with pytest.raises(ConfigError, match="start with syncd run"):
        check_inputs(graph, "train", recipe, workspace)
    after = tracked()
    assert [stage for stage in graph.names if before[stage] != after[stage]] == ["train"]


def test_a_recipe_without_paths_has_no_digests(tmp_path: Path) -> None:
    recipe = resolve_paths(load_recipe("miniature"), tmp_path, tmp_path)
    (tmp_path / "configs").mkdir()
    write_inputs(recipe, tmp_path)
    recorded = yaml.safe_load((tmp_path / "configs/inputs.yaml").read_text())
    assert recorded == {"assets": {}, "train": {}, "evaluate": {}}


def test_runs_are_hermetic_and_quiet_but_the_caller_may_say_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_HOME", raising=False)
    monkeypatch.setenv("PREFECT_LOGGING_LEVEL", "DEBUG")
    environment = quiet_environment(tmp_path)
    assert environment["PREFECT_HOME"] == str(tmp_path / ".prefect")
    assert environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert environment["DO_NOT_TRACK"] == "1"
    assert environment["PREFECT_LOGGING_LEVEL"] == "DEBUG"


def test_the_runtime_travels_in_the_environment_so_that_dvc_does_not_track_it(tmp_path: Path) -> None:
    from fake_workspace import RUNTIME

    runtime = RUNTIME.model_copy(update={"prefect_api_url": "http://server/api", "workers": 5})
    environment = run_environment(tmp_path, runtime, "run-1")
    assert '"workers":5' in environment["SYNCD_RUNTIME"]
    assert environment["PREFECT_API_URL"] == "http://server/api"
    assert environment["SYNCD_RUN_ID"] == "run-1"


def test_a_workspace_inside_the_folder_of_meshes_is_refused(meshes: Path) -> None:
    for workspace in (meshes, meshes / "more"):
        with pytest.raises(ConfigError, match="lies in it; take a --workspace outside"):
            input_values(folder_recipe(str(meshes)), workspace)


def test_hidden_files_are_no_part_of_the_digest(tmp_path: Path, meshes: Path) -> None:
    section = folder_recipe(str(meshes))
    first = input_values(section, tmp_path)
    (meshes / ".DS_Store").write_bytes(b"x")
    assert input_values(section, tmp_path) == first


def test_one_run_at_a_time_in_a_workspace(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from flows.workspace import locked\nwith locked(Path(sys.argv[1])): pass"
    )
    other = [sys.executable, "-c", code, str(tmp_path)]
    with locked(tmp_path), locked(tmp_path):
        refused = subprocess.run(other, env=subprocess_environment(), capture_output=True, text=True)
        assert f"in use by process {os.getpid()} on {socket.gethostname()}; wait for it" in refused.stderr
    assert subprocess.run(other, env=subprocess_environment()).returncode == 0


def test_a_run_waits_for_the_one_that_holds_the_workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(workspaces, "SECONDS_BETWEEN_LOOKS", 0.05)
    code = (
        "import sys; from pathlib import Path; from flows.workspace import locked\n"
        "with locked(Path(sys.argv[1])): print('in', flush=True); sys.stdin.read(1)"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": subprocess_environment()}
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], **pipes) as other:
        assert other.stdout.readline() == b"in\n"
        refused = f"in use by process {other.pid} on .* after 0.01 minutes of waiting"
        with pytest.raises(ConfigError, match=refused), locked(tmp_path, wait_minutes=0.01):
            pass
        assert capsys.readouterr().out.count(f"in use by process {other.pid}") == 1
        timer = threading.Timer(0.5, other.stdin.close)
        timer.start()
        with locked(tmp_path, wait_minutes=1):
            assert not timer.is_alive()
            assert (tmp_path / "artifacts/.lock").read_text().startswith(f"{os.getpid()} on ")
