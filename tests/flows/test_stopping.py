"""SIGTERM, as a supervisor sends it: the run ends within seconds, its processes with it, and the next one goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_tasks import attempts
from fake_workspace import (
    RETRAINING,
    RUNTIME,
    TESTS,
    bare_workspace,
    digests,
    dvc_workspace,
    make_trouble,
    no_trouble,
    subprocess_environment,
)
from prefect_machines import eventually, processes_of

from configs.load import RUNTIME_VARIABLE
from flows.engine import run_stage
from flows.history import receipts_in
from flows.runners import serial
from flows.stopping import MESSAGE

SYNCD = [sys.executable, "-m", "flows.cli"]


def start(command: list[str], folder: Path, server: str, runner: str = "process") -> subprocess.Popen[str]:
    runtime = RUNTIME.model_copy(update={"runner": runner})
    environment = {
        **subprocess_environment(),
        RUNTIME_VARIABLE: runtime.model_dump_json(),
        "PREFECT_API_URL": server,
    }
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True, **pipes)


def make(folder: Path, *stages: str) -> None:
    for stage in stages:
        run_stage(stage, folder, RUNTIME, serial, package="fake_tasks")


def retraining(folder: Path) -> Path:
    make(dvc_workspace(folder, stages=RETRAINING), "assets", "prompts", "shard")
    (folder / "attempts.log").unlink()
    return folder


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_a_driver_that_ends_takes_the_stage_under_dvc_with_it_and_the_next_run_resumes(
    tmp_path: Path, prefect_server: str, number: signal.Signals
) -> None:
    folder = retraining(tmp_path / "new")
    make_trouble(folder, sleep=120)
    driver = start([*SYNCD, "retrain"], folder, prefect_server)
    eventually(lambda: attempts(folder))
    clock = time.monotonic()
    driver.send_signal(number)
    _, said = driver.communicate(timeout=60)
    eventually(lambda: not processes_of(folder))
    assert time.monotonic() - clock < 30
    assert not (folder / "artifacts/train").exists()
    if number == signal.SIGKILL:
        return
    assert driver.returncode == 128 + signal.SIGTERM
    assert said.strip().splitlines()[-1] == MESSAGE
    assert "Traceback" not in said
    no_trouble(folder)
    make(folder, "train")
    make(whole := retraining(tmp_path / "whole"), "train")
    assert digests(folder, "train") == digests(whole, "train")


@pytest.mark.parametrize("runner", ["process", "thread"])
def test_a_stage_ends_its_workers_and_keeps_the_shards_that_were_finished(
    tmp_path: Path, prefect_server: str, runner: str
) -> None:
    folder = bare_workspace(tmp_path / "new")
    (folder / ".dvc").mkdir()
    make_trouble(folder, sleep=0.5)
    stage = start([sys.executable, str(TESTS / "flow_stage.py"), "assets"], folder, prefect_server, runner)
    eventually(lambda: len(attempts(folder)) > RUNTIME.workers)
    make_trouble(folder, sleep=120)
    eventually(lambda: len(attempts(folder)) == 4)
    os.kill(stage.pid, signal.SIGTERM)
    _, said = stage.communicate(timeout=60)
    assert stage.returncode == 128 + signal.SIGTERM
    assert (f"ERROR: assets: {MESSAGE}" if runner == "process" else MESSAGE) in said
    eventually(lambda: not processes_of(folder))
    assert not (folder / "artifacts/assets").exists()
    (work,) = (path for path in (folder / "artifacts/.work/assets").iterdir() if path.is_dir())
    done = receipts_in(work)
    assert {path.name for path in work.glob("*.tar")} == {receipt.name for receipt in done}
    no_trouble(folder)
    assert run_stage("assets", folder, RUNTIME, serial, package="fake_tasks").reused == len(done) > 0
    make(whole := bare_workspace(tmp_path / "whole"), "assets")
    assert digests(folder, "assets") == digests(whole, "assets")


def test_the_outer_flow_learns_that_a_stage_alone_was_stopped(tmp_path: Path, prefect_server: str) -> None:
    folder = bare_workspace(tmp_path / "new")
    (folder / ".dvc").mkdir()
    make_trouble(folder, sleep=120)
    stage = start([sys.executable, str(TESTS / "fake_stage.py"), "assets"], folder, prefect_server)
    eventually(lambda: attempts(folder))
    stage.terminate()
    stage.communicate(timeout=60)
    said = json.loads((folder / "artifacts/.work/assets/last_run.json").read_bytes())
    assert (said["error"], said["transient"]) == (f"assets: {MESSAGE}", False)
