"""prefect.yaml names a flow that exists, with parameters it takes; and what becomes of runs that end badly."""

from pathlib import Path
from types import ModuleType
from typing import NoReturn

import pytest
import yaml

from configs.errors import ConfigError
from flows import regenerate, retrain
from flows.deployment.automation import LOST_AFTER, STATES
from flows.workspace import PROJECT

DEPLOYMENTS = yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]


def test_every_deployment_names_a_flow_and_parameters_that_it_takes() -> None:
    from prefect.client.schemas.schedules import CronSchedule
    from prefect.flows import load_flow_from_entrypoint

    assert DEPLOYMENTS
    for deployment in DEPLOYMENTS:
        path, _, name = deployment["entrypoint"].partition(":")
        flow = load_flow_from_entrypoint(f"{PROJECT / path}:{name}")
        flow.validate_parameters(deployment["parameters"])
        for schedule in deployment["schedules"]:
            CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])
        assert deployment["work_pool"]["name"]


@pytest.mark.parametrize("module", [regenerate, retrain])
def test_a_scheduled_run_waits_for_the_workspace_as_long_as_its_deployment_says(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = module.__name__.rpartition(".")[2]
    (deployment,) = (item for item in DEPLOYMENTS if item["entrypoint"] == f"flows/{name}.py:{name}")
    assert deployment["parameters"]["wait_minutes"] > 0

    def in_use(folder: Path, wait_minutes: float) -> NoReturn:
        raise ConfigError(f"waited {wait_minutes} minutes")

    monkeypatch.setattr(module, "locked", in_use)
    with pytest.raises(ConfigError, match=f"waited {deployment['parameters']['wait_minutes']} minutes"):
        getattr(module, name).fn(**deployment["parameters"])


def test_the_webhook_hears_of_every_run_that_did_not_end_well() -> None:
    assert {"Failed", "Crashed", "TimedOut", "Cancelled", "Late", "Refused"} == set(STATES)


def test_a_run_of_a_machine_that_died_is_told_before_the_next_is_due() -> None:
    """A few heartbeats may get lost."""
    for deployment in DEPLOYMENTS:
        seconds = deployment["work_pool"]["job_variables"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]
        assert 3 * int(seconds) <= LOST_AFTER.total_seconds() <= 3600
