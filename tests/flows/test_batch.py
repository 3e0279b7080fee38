"""Shards made by number: all that a stage needs, in shares of a job array, and beside others that make the same."""

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from fake_tasks import attempts
from fake_workspace import RUNTIME, TESTS, bare_workspace, digests, make_trouble, subprocess_environment

from configs.errors import ConfigError
from flows.batch import run_share
from flows.engine import run_stage
from flows.runners import serial


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = bare_workspace(tmp_path_factory.mktemp("serial"))
    run_stage("assets", folder, RUNTIME, serial, package="fake_tasks")
    return digests(folder, "assets")


def share(folder: Path, index: int, of: int | None) -> list[int]:
    return [receipt.index for receipt in run_share("assets", index, of, folder, RUNTIME, package="fake_tasks")]


@pytest.mark.parametrize("tasks", [None, 1, 3, 7])
def test_the_tasks_of_an_array_of_any_size_make_the_stage(
    tmp_path: Path, reference: dict[str, str], tasks: int | None
) -> None:
    bare_workspace(tmp_path)
    shares = [share(tmp_path, index, tasks) for index in reversed(range(tasks or 4))]
    assert sorted(index for made in shares for index in made) == [0, 1, 2, 3]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    result = run_stage("assets", tmp_path, RUNTIME, serial, package="fake_tasks")
    assert result.reused == 4
    assert digests(tmp_path, "assets") == reference


def test_a_shard_or_share_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    bare_workspace(tmp_path)
    with pytest.raises(ConfigError, match="assets has 4 shards, numbered from 0; there is no shard 4"):
        share(tmp_path, 4, None)
    with pytest.raises(ConfigError, match=r"--index is 3; allowed with --of 3: 0 to 2 \(number the job array from 0\)"):
        share(tmp_path, 3, 3)


def test_a_task_beside_a_driver_waits_for_its_shard_and_repeats_none(
    tmp_path: Path, reference: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    make_trouble(bare_workspace(tmp_path), sleep=0.2)
    command = [sys.executable, str(TESTS / "fake_stage.py"), "assets"]
    with subprocess.Popen(command, cwd=tmp_path, env=subprocess_environment()) as driver:
        while "assets-0" not in attempts(tmp_path):
            assert driver.poll() is None
            time.sleep(0.02)
        assert share(tmp_path, 0, 1) == [0, 1, 2, 3]
        assert driver.wait() == 0
    assert Counter(attempts(tmp_path)) == {f"assets-{index}": 1 for index in range(4)}
    assert digests(tmp_path, "assets") == reference
    assert "assets: shard 0: another process makes it; waiting for that" in capfd.readouterr().err
