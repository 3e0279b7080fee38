"""syncd gc: what nothing resumes from, shown before it is deleted."""

from pathlib import Path

from fake_workspace import RUNTIME, activate, bare_workspace, digests
from typer.testing import CliRunner

from flows.cli import app
from flows.engine import run_stage
from flows.runners import serial


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
