"""The kill campaign, small: resumes end in the bytes of an undisturbed run, and the campaign can tell when not."""

import subprocess
import sys
from pathlib import Path

import pytest
from fake_workspace import bare_workspace, subprocess_environment

from benchmarks.kills import FAKE_STAGES, Kill, Way, kill_once, report
from flows.workspace import PROJECT


def test_five_killed_runs_end_in_the_bytes_of_one_that_nobody_disturbed(tmp_path: Path) -> None:
    """In a process of its own: the campaign forks, and other tests have threads."""
    command = [sys.executable, "-m", "benchmarks.kills", "--kills", "5", "--folder", str(tmp_path / "kills")]
    done = subprocess.run(command, cwd=PROJECT, env=subprocess_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    totals = next(line for line in done.stdout.splitlines() if line.startswith("| all |"))
    kills, alone, _, remade, orphans, mismatches = (int(cell) for cell in totals.strip("| ").split(" | ")[1:])
    assert (kills, alone, remade, orphans, mismatches) == (5, 0, 0, 0, 0)
    assert not list((tmp_path / "kills").glob("run-*"))


@pytest.mark.parametrize("second", ["true", "false"])
def test_a_run_that_ends_in_other_bytes_or_in_an_error_is_a_mismatch(tmp_path: Path, second: str) -> None:
    commands = iter([["sleep", "60"], [second]])
    way = Way(
        FAKE_STAGES,
        bare_workspace(tmp_path / "template"),
        lambda workspace: subprocess.Popen(next(commands), start_new_session=True),
        dvc=False,
        driver_alone=False,
    )
    kill = kill_once(way, tmp_path / "run", 0.05, False, {"artifacts/assets/index.json": "0" * 64}, {})
    wanted = "artifacts/assets/index.json differs" if second == "true" else "the resumed run ended with 1"
    assert kill == Kill("before assets", False, 0, 0, 0, (wanted,))
    assert f"MISMATCH before assets: {wanted}" in report([kill], 1.0)


def test_a_run_that_had_ended_before_its_kill_does_not_count(tmp_path: Path) -> None:
    template = bare_workspace(tmp_path / "template")
    way = Way(FAKE_STAGES, template, lambda workspace: subprocess.Popen(["true"]), dvc=False, driver_alone=False)
    assert kill_once(way, tmp_path / "run", 1.0, False, {}, {}) is None
