"""syncd gc: what nothing resumes from, shown before it is deleted."""

from pathlib import Path

from fake_workspace import RETRAINING, RUNTIME, activate, bare_workspace, digests
from typer.testing import CliRunner

from configs.load import load_resolved
from data.shards import sha256_file
from flows.cli import app
from flows.engine import run_stage
from flows.graph import load_graph
from flows.history import StageState, stage_state
from flows.runners import serial
from models.training.folders import features_folder, features_root


def gc(folder: Path, *words: str) -> list[str]:
    done = CliRunner().invoke(app, ["gc", "--workspace", str(folder), *words])
    assert done.exit_code == 0, done.output
    return done.output.splitlines()


def test_old_work_is_shown_and_then_deleted_and_the_present_one_stays(tmp_path: Path) -> None:
    folder = bare_workspace(tmp_path / "new")
    (folder / ".dvc").mkdir()
    run_stage("assets", folder, RUNTIME, serial, package="fake_tasks")
    (old,) = (path for path in (folder / "artifacts/.work/assets").iterdir() if path.is_dir())
    assert gc(folder) == ["0.0 MB freed"]
    run_stage("assets", activate(folder, "seed=1"), RUNTIME, serial, package="fake_tasks")
    half = folder / "artifacts" / ".train.building"
    half.mkdir()
    (half / "weights").write_bytes(b"x" * 2_000_000)
    before = digests(folder, "assets")

    dry = gc(folder, "--dry-run")
    assert dry[0].split() == ["2.0", "MB", str(half)]
    assert dry[1].endswith(str(old)) and dry[-1].endswith("would be freed")
    assert old.exists() and half.exists()

    assert gc(folder)[:-1] == dry[:-1]
    assert not old.exists() and not half.exists()
    assert digests(folder, "assets") == before
    assert run_stage("assets", folder, RUNTIME, serial, package="fake_tasks").reused == 4


def test_features_go_when_the_active_recipe_does_not_read_them(tmp_path: Path) -> None:
    folder = bare_workspace(tmp_path / "new", stages=RETRAINING)
    (folder / ".dvc").mkdir()
    for stage in RETRAINING[:4]:
        run_stage(stage, folder, RUNTIME, serial, package="fake_tasks")
    mine, others = features_of(folder), features_root(folder) / "0123456789abcdef"
    for path in (mine, others):
        (path / "pairs").mkdir(parents=True)
        (path / "pairs" / "x.safetensors").write_bytes(b"x" * 2_000_000)
    assert gc(folder, "--dry-run") == [f"{2.0:9.1f} MB  {others}", "2.0 MB would be freed"]

    (before,) = (path for path in (folder / "artifacts/.work/train").iterdir() if path.is_dir() and path != mine.parent)
    activate(folder, "train.learning_rate=0.3")
    assert features_of(folder) == mine
    assert [line.split()[-1] for line in gc(folder)[:-1]] == [str(before), str(others)]
    assert mine.exists() and not others.exists()
    state = {item.stage: item for item in pipeline_states(folder)}["train"]
    assert (state.state, state.pace) == ("out of date", None), "features are no receipts"

    activate(folder, "train.max_references=4")
    assert [line.split()[-1] for line in gc(folder)[:-1]] == [str(mine)]


def features_of(folder: Path) -> Path:
    recipe = load_resolved(folder / "configs" / "recipe.yaml")
    dataset = sha256_file(folder / "artifacts" / "shard" / "index.json")
    return features_folder(folder, recipe.models.customizer, recipe.train, recipe.seed, dataset)


def pipeline_states(folder: Path) -> list[StageState]:
    graph = load_graph(folder)
    return [stage_state(graph, stage, folder) for stage in graph.names]
