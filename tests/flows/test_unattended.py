"""Runs that nobody watches, on a real Prefect server and worker: scheduled, done, nothing to do, failed, cancelled."""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import prefect_machines
import pytest
from fake_tasks import attempts
from fake_workspace import RETRAINING, RUNTIME, dvc_workspace, make_trouble
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.events import Event
from prefect.states import Cancelling, Completed, Pending, Running, Scheduled
from prefect_machines import PREFECT, eventually, processes_of, running

from configs.load import RUNTIME_VARIABLE
from flows.deployment.automation import TAG
from flows.engine import run_stage
from flows.runners import serial
from flows.workspace import PROJECT


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with prefect_machines.server(tmp_path_factory.mktemp("server")) as environment:
        yield {**environment, RUNTIME_VARIABLE: RUNTIME.model_dump_json()}


def workspace(folder: Path) -> Path:
    dvc_workspace(folder, stages=RETRAINING)
    for stage in ("assets", "prompts", "shard"):
        run_stage(stage, folder, RUNTIME, serial, package="fake_tasks")
    (folder / "attempts.log").unlink()
    return folder


def call(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_deployments_of_the_project(environment: dict[str, str], tmp_path: Path) -> None:
    """One story: a server and a worker take seconds to start."""
    with (
        SyncPrefectClient(api=environment["PREFECT_API_URL"]) as client,
        prefect_machines.webhook() as (address, posted),
    ):
        words = ["deploy", "--webhook", address]
        twice = f"from flows.cli import app\nfor _ in range(2): app({words}, standalone_mode=False)"
        call([sys.executable, "-c", twice], environment)
        for name in ("syncd-failures", "syncd-lost"):
            (automation,) = client.read_automations_by_name(name)
            assert automation.enabled
        weekly, nightly = (client.read_deployment_by_name(name) for name in ("regenerate/weekly", "retrain/nightly"))
        assert [deployment.work_pool_name for deployment in (weekly, nightly)] == ["cpu-pool", "gpu-pool"]
        assert client.read_work_pool("gpu-pool").concurrency_limit == 1
        for deployment in (weekly, nightly):
            assert [schedule.active for schedule in deployment.schedules] == [True]
            assert deployment.concurrency_options.collision_strategy == "CANCEL_NEW"

        def soon(folder: Path) -> UUID:
            when = datetime.now(UTC) + timedelta(seconds=1)
            run = client.create_flow_run_from_deployment(
                nightly.id, parameters={"workspace": str(folder)}, state=Scheduled(scheduled_time=when)
            )
            return run.id

        def ended(run: UUID) -> FlowRun | None:
            found = client.read_flow_run(run)
            return found if found.state and found.state.is_final() else None

        def outcome(folder: Path) -> tuple[str, str]:
            run = soon(folder)
            state = eventually(lambda: ended(run)).state
            return state.name, state.message

        folder = workspace(tmp_path / "new")
        worker = [*PREFECT, "worker", "start", "--pool", "gpu-pool"]
        with running(worker, environment, tmp_path / "worker.log"):
            first = outcome(folder)
            assert first[0] == "Promoted" and "no model was current" in first[1], log(tmp_path)
            assert json.loads((folder / "artifacts/models/current.json").read_bytes())["sha256"]
            made = attempts(folder)
            assert "train-0" in made

            assert outcome(folder)[0] == "NothingToDo", log(tmp_path)
            assert attempts(folder) == made

            empty = dvc_workspace(tmp_path / "empty", stages=RETRAINING)
            assert outcome(empty)[0] == "Failed", log(tmp_path)
            (told,) = eventually(lambda: [item for item in posted if item["state"] == "Failed"])
            assert (told["flow"], told["workspace"]) == ("retrain", str(empty))
            assert "run the stage first: syncd run --until shard" in told["error"]
            assert told["text"].startswith(f"retrain Failed in {empty}: ")

            slow = workspace(tmp_path / "slow")
            make_trouble(slow, sleep=120)
            run = soon(slow)
            eventually(lambda: attempts(slow))
            stage = processes_of(slow)
            assert stage
            for process in stage:
                assert b"PREFECT__" not in Path(f"/proc/{process}/environ").read_bytes()
            client.set_flow_run_state(run, Cancelling())
            assert eventually(lambda: ended(run)).state.name == "Cancelled", log(tmp_path)
            eventually(lambda: not processes_of(slow))
            (told,) = eventually(lambda: [item for item in posted if item["state"] == "Cancelled"])
            assert told["workspace"] == str(slow)

        soon_lost = "from flows.deployment import automation as own; own.LOST_AFTER /= 60; own.mark_lost()"
        call([sys.executable, "-c", soon_lost], environment)
        lost, good = (begun(client, deployment.id) for deployment in (nightly, weekly))
        client.set_flow_run_state(good, Completed(name="Promoted"))
        late = client.create_flow_run_from_deployment(nightly.id, name="late").id
        client.set_flow_run_state(late, Pending())
        assert "concurrency limit" in eventually(lambda: [own for own in posted if own["run"] == "late"])[0]["error"]
        (told,) = eventually(lambda: [item for item in posted if item["state"] == "Crashed"])
        assert "no heartbeat for 0:00:10" in told["error"] and ended(lost).state.name == "Crashed"
        assert ended(good).state.name == "Promoted"
    assert processes_of(folder) == processes_of(empty) == []


def begun(client: SyncPrefectClient, deployment: UUID) -> UUID:
    """A run that gave one sign of life."""
    run = client.create_flow_run_from_deployment(deployment)
    for state in (Pending(), Running()):
        client.set_flow_run_state(run.id, state)
    of = {"prefect.resource.id": f"prefect.tag.{TAG}", "prefect.resource.role": "tag"}
    beat = Event(
        event="prefect.flow-run.heartbeat", resource={"prefect.resource.id": f"prefect.flow-run.{run.id}"}, related=[of]
    )
    httpx.post(f"{client.api_url}events", json=[beat.model_dump(mode="json")]).raise_for_status()
    return run.id


def log(folder: Path) -> Any:
    return (folder / "worker.log").read_text()[-3000:]
