"""The deployments of prefect.yaml and their work pools on a Prefect server, made or brought up to date.

`prefect deploy` reads the same file, but ends in an error behind its first deployment: it sends `limit: null`, which a
server of Prefect 3.8.8 on FastAPI 0.154 refuses. Import after the environment is set.
"""

from pathlib import Path
from typing import Any

import yaml
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import ConcurrencyOptions
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema
from prefect.workers.process import ProcessWorker


def deploy(file: Path) -> list[str]:
    """Names of the deployments, as FLOW/DEPLOYMENT. ValueError for parameters that a flow does not take."""
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    with get_client(sync_client=True) as client:
        for name, pool in content["definitions"]["work_pools"].items():
            _apply_pool(client, name, pool["concurrency_limit"])
        return [_apply(client, entry, content["pull"], file.parent) for entry in content["deployments"]]


def _apply_pool(client: SyncPrefectClient, name: str, limit: int | None) -> None:
    """A pool of processes that runs at most `limit` flows at a time, over all of its workers."""
    try:
        client.read_work_pool(name)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        client.create_work_pool(
            WorkPoolCreate(name=name, type=ProcessWorker.type, base_job_template=template, concurrency_limit=limit)
        )
    else:
        client.update_work_pool(name, WorkPoolUpdate(concurrency_limit=limit))


def _apply(client: SyncPrefectClient, entry: dict[str, Any], pull: list[dict[str, Any]], folder: Path) -> str:
    path, _, function = entry["entrypoint"].partition(":")
    flow: Flow[Any, Any] = load_flow_from_entrypoint(f"{folder / path}:{function}")
    flow.validate_parameters(entry["parameters"])
    limit = entry["concurrency_limit"]
    client.create_deployment(
        flow_id=client.create_flow(flow),
        name=entry["name"],
        description=entry["description"],
        entrypoint=entry["entrypoint"],
        parameters=entry["parameters"],
        parameter_openapi_schema=parameter_schema(flow).model_dump_for_openapi(),
        enforce_parameter_schema=True,
        tags=entry["tags"],
        schedules=[_schedule(item) for item in entry["schedules"]],
        concurrency_limit=limit["limit"],
        concurrency_options=ConcurrencyOptions(collision_strategy=limit["collision_strategy"]),
        work_pool_name=entry["work_pool"]["name"],
        job_variables=entry["work_pool"]["job_variables"],
        pull_steps=pull,
    )
    return f"{flow.name}/{entry['name']}"


def _schedule(item: dict[str, Any]) -> DeploymentScheduleCreate:
    return DeploymentScheduleCreate(
        schedule=CronSchedule(cron=item["cron"], timezone=item["timezone"]), active=item["active"]
    )
