"""The syncd command: quick help, one clear line for every error, exit codes a scheduler can use."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fake_workspace import RUNTIME, bare_workspace

from flows.engine import run_stage
from flows.runners import serial
from models.registry import WEIGHTS_VARIABLE, miniature_weights

SYNCD = [sys.executable, "-m", "flows.cli"]


def syncd(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The command in an environment without the Prefect server that other tests share."""
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    return subprocess.run([*SYNCD, *arguments], cwd=folder, capture_output=True, text=True, env=environment)


def test_help_names_every_command_and_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['syncd', '--help']\nfrom flows.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'prefect', 'dvc', 'transformers', 'numpy'} & set(sys.modules)\n"
        "print('heavy:', sorted(heavy))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert "heavy: []" in done.stdout, done.stderr
    commands = (
        "run",
        "plan",
        "study",
        "evaluate",
        "status",
        "retry-failed",
        "run-shard",
        "doctor",
        "report",
        "sample",
        "verify",
        "miniature",
        "models",
        "retrain",
        "deploy",
    )
    assert all(f" {command} " in done.stdout for command in commands)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--recipe", "miniature", "--set", "generate.colour=red"], "generate.colour is not a known key"),
        (["run", "--recipe", "nowhere"], "recipe 'nowhere' is not known"),
        (["run"], "name a recipe: syncd run --recipe NAME"),
        (["status"], "is no workspace"),
        (["report"], "missing; make it with: syncd run"),
        (["run-shard", "assets", "--index", "0"], "is no workspace"),
        (["retrain"], "is no workspace"),
        (["models", "list"], "is no workspace"),
        (["deploy"], "no Prefect server is named"),
        (["evaluate", "--checkpoint", "x", "--recipe", "miniature"], "evaluate.benchmark is held_out, whose objects"),
    ],
)
def test_a_mistake_is_one_line_without_a_traceback_and_exit_code_2(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    done = syncd(*arguments, folder=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_debug_shows_where_an_error_came_from(tmp_path: Path) -> None:
    done = syncd("status", "--debug", folder=tmp_path)
    assert "Traceback" in done.stderr
    assert done.returncode == 2


def test_an_unknown_stage_is_named_with_the_known_ones(tmp_path: Path) -> None:
    bare_workspace(tmp_path)
    (tmp_path / ".dvc").mkdir()
    done = syncd("retry-failed", "assetz", folder=tmp_path)
    assert done.returncode == 2
    assert "stage 'assetz' is not in dvc.yaml; known: assets, prompts" in done.stderr


def test_status_as_json_can_be_read_by_a_machine(tmp_path: Path) -> None:
    bare_workspace(tmp_path)
    (tmp_path / ".dvc").mkdir()
    states = json.loads(syncd("status", "--json", folder=tmp_path).stdout)
    assert [(state["stage"], state["state"]) for state in states] == [("assets", "not begun"), ("prompts", "waiting")]


def test_verify_fails_with_the_name_of_what_was_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare_workspace(tmp_path)
    (tmp_path / ".dvc").mkdir()
    run_stage("assets", tmp_path, RUNTIME, serial, package="fake_tasks")
    good = syncd("verify", folder=tmp_path)
    assert good.returncode == 0 and "1 stages verified" in good.stdout and "not run yet: prompts" in good.stdout
    (tmp_path / "artifacts/assets/notes.txt").write_text("other")
    weights = shutil.copytree(miniature_weights(), tmp_path / "weights")
    with (weights / "dino" / "model.safetensors").open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\x7f")
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(weights))
    bad = syncd("verify", folder=tmp_path)
    assert bad.returncode == 1
    assert "notes.txt" in bad.stderr
    assert "model miniature-dino" in bad.stderr and "bring back the pinned files" in bad.stderr


def test_a_recipe_is_planned_without_a_workspace_and_none_is_left_behind(tmp_path: Path) -> None:
    done = syncd("plan", "--recipe", "flux-deformable", "--workspace", str(tmp_path / "new"), "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    by_stage = {row["stage"]: row for row in told["stages"]}
    objects = by_stage["assets"]["keys"]
    assert objects > 1000 and by_stage["generate"]["keys"] == 3 * objects
    assert told["memory"]["generate"]["parts"]["transformer"] == 2 * 11_901_408_320
    assert list(tmp_path.iterdir()) == []
