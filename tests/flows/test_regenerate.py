"""The outer flow with DVC, on two fake stages: what runs, what does not, resume, plan, status and retries."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fake_tasks import attempts
from fake_workspace import RUNTIME, SMALL, digests, dvc_workspace, make_trouble, no_trouble, subprocess_environment

from configs.load import RUNTIME_VARIABLE, load_recipe, load_resolved
from data.chain import verify_chain
from flows.plan import make_plan, plan_table
from flows.requeue import requeue_failed
from flows.status import status, status_table
from flows.worker import StageError
from flows.workspace import choose_recipe, planned_in, prepare_workspace

STAGES = ("assets", "prompts")


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in subprocess_environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(RUNTIME_VARIABLE, RUNTIME.model_dump_json())


def regenerate(folder: Path) -> dict[str, bool]:
    """Which stages ran."""
    from flows.regenerate import regenerate as flow

    return {outcome.stage: outcome.ran for outcome in flow(workspace=str(folder))}


def set_recipe(folder: Path, *overrides: str) -> None:
    graph = (folder / "dvc.yaml").read_text()
    prepare_workspace(folder, load_recipe("miniature", (*SMALL, *overrides)))
    (folder / "dvc.yaml").write_text(graph)


def test_the_life_of_a_workspace(tmp_path: Path, prefect_server: str, capfd: pytest.CaptureFixture[str]) -> None:
    """One story, since every step needs the one before it and DVC takes seconds to start."""
    folder = dvc_workspace(tmp_path / "new")
    assert regenerate(folder) == {"assets": True, "prompts": True}
    first = {stage: digests(folder, stage) for stage in STAGES}
    capfd.readouterr()
    assert regenerate(folder) == {"assets": False, "prompts": False}
    assert capfd.readouterr().out.splitlines() == ["assets: up to date", "prompts: up to date"]

    # As DVC leaves them when it is killed while it writes them.
    (folder / ".dvc" / "tmp" / "rwlock").write_text("")
    (folder / "dvc.lock").write_text((folder / "dvc.lock").read_text()[:20])
    assert regenerate(folder) == {"assets": False, "prompts": False}
    assert capfd.readouterr().err.count("half written by a DVC that was killed") == 1

    set_recipe(folder, "prompts.min_words=3")
    planned = make_plan(folder, RUNTIME, package="fake_tasks")
    assert [item.would_run for item in planned] == [False, True]
    assert planned[1].causes == ["prompts.min_words 4 -> 3"]
    assert planned[1].seconds is not None and planned[1].bytes
    assert regenerate(folder) == {"assets": False, "prompts": True}

    (folder / "attempts.log").unlink()
    set_recipe(folder)
    assert regenerate(folder) == {"assets": False, "prompts": True}
    assert attempts(folder) == []
    assert {stage: digests(folder, stage) for stage in STAGES} == first
    assert verify_chain(folder, STAGES) == []

    published = folder / "artifacts/assets/000001.tar"
    data = bytearray(published.read_bytes())
    data[700] ^= 1
    published.chmod(0o644)
    published.write_bytes(data)
    assert [str(published) in problem for problem in verify_chain(folder, STAGES)] == [True]
    capfd.readouterr()
    assert regenerate(folder) == {"assets": False, "prompts": False}
    assert "assets: restored from the DVC cache" in capfd.readouterr().out
    assert {stage: digests(folder, stage) for stage in STAGES} == first
    assert verify_chain(folder, STAGES) == []


def test_failed_keys_are_shown_and_can_be_tried_again_alone(tmp_path: Path, prefect_server: str) -> None:
    folder = dvc_workspace(tmp_path / "new")
    make_trouble(folder, fail=["object-004"])
    regenerate(folder)
    states = status(folder)
    assert [(state.state, state.keys, state.failed) for state in states] == [
        ("done", 10, {"corrupt": 1}),
        ("done", 9, {}),
    ]
    assert "1 corrupt" in status_table(states)[1]

    no_trouble(folder)
    assert requeue_failed(folder, reason="empty") == []
    (queued,) = requeue_failed(folder)
    assert (queued.stage, queued.keys, queued.shards) == ("assets", ["object-004"], [1])
    assert [state.state for state in status(folder)] == ["unfinished", "done"]
    assert regenerate(folder) == {"assets": True, "prompts": True}
    assert attempts(folder)[:1] == ["assets-1"]
    assert attempts(folder).count("assets-1") == sum(line.startswith("assets") for line in attempts(folder))
    assert [state.keys for state in status(folder)] == [10, 10]


def test_a_stage_that_fails_stops_the_walk_with_its_own_words_and_then_resumes(
    tmp_path: Path, prefect_server: str, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = dvc_workspace(tmp_path / "new")
    make_trouble(folder, crash={"index": 2, "error": "bug"})
    with pytest.raises(StageError, match=r"assets: shard 2: ValueError: a bug"):
        regenerate(folder)
    assert "failed to reproduce" not in capfd.readouterr().err
    state = status(folder)[0]
    assert (state.state, state.shards, state.total_shards, state.keys, state.total_keys) == ("unfinished", 2, 4, 6, 10)
    rows = plan_table(make_plan(folder, RUNTIME, package="fake_tasks"))
    assert rows[1][:5] == ["assets", "yes", "never run", "10", "2/4"]
    assert rows[2][:3] == ["prompts", "yes", "never run; after assets"]

    no_trouble(folder)
    assert regenerate(folder) == {"assets": True, "prompts": True}
    assert [line for line in attempts(folder) if line.startswith("assets")] == ["assets-2", "assets-3"]


def test_dvc_repro_by_hand_does_the_same_and_nothing_the_second_time(tmp_path: Path) -> None:
    folder = dvc_workspace(tmp_path / "new")
    command = [sys.executable, "-m", "dvc", "repro"]
    first = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    before = attempts(folder)
    second = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert "Data and pipelines are up to date" in second.stdout
    assert attempts(folder) == before
    assert json.loads((folder / "artifacts/assets/index.json").read_text())["stage"] == "assets"


def test_a_recipe_can_be_looked_at_without_becoming_the_active_one(tmp_path: Path, prefect_server: str) -> None:
    folder = dvc_workspace(tmp_path / "new")
    regenerate(folder)
    before = {path: path.read_bytes() for path in (folder / "configs").iterdir()}
    with planned_in(folder, choose_recipe(folder, None, ("prompts.min_words=3",))) as place:
        assert load_resolved(place / "configs/recipe.yaml").prompts.min_words == 3
        planned = make_plan(place, RUNTIME, package="fake_tasks")
        assert [(item.would_run, item.causes) for item in planned] == [
            (False, []),
            (True, ["prompts.min_words 4 -> 3"]),
        ]
        assert {path: path.read_bytes() for path in (folder / "configs").iterdir()} == before
    assert not place.exists() and verify_chain(folder, STAGES) == []
    with planned_in(folder, choose_recipe(folder, None)) as place:
        assert place == folder


def test_a_stage_is_tried_again_if_its_error_may_pass_and_only_then(
    tmp_path: Path, prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import regenerate as module

    monkeypatch.setattr(module, "BACK_OFF_SECONDS", 0.0)
    monkeypatch.setenv(RUNTIME_VARIABLE, RUNTIME.model_copy(update={"retries": 0}).model_dump_json())
    folder = dvc_workspace(tmp_path / "new")
    make_trouble(folder, crash={"index": 2, "error": "bug"})
    with pytest.raises(StageError, match="a bug"):
        module.regenerate(workspace=str(folder), until="assets", retries=2)
    assert attempts(folder).count("assets-2") == 1
    make_trouble(folder, crash={"index": 2, "error": "flaky", "times": 2})
    assert [outcome.ran for outcome in module.regenerate(workspace=str(folder), until="assets", retries=2)] == [True]
    assert attempts(folder).count("assets-2") == 3
