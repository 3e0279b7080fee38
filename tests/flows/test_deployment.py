"""prefect.yaml names a flow that exists, with parameters it takes."""

import yaml

from flows.workspace import PROJECT


def test_every_deployment_names_a_flow_and_parameters_that_it_takes() -> None:
    from prefect.client.schemas.schedules import CronSchedule
    from prefect.flows import load_flow_from_entrypoint

    deployments = yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]
    assert deployments
    for deployment in deployments:
        path, _, name = deployment["entrypoint"].partition(":")
        flow = load_flow_from_entrypoint(f"{PROJECT / path}:{name}")
        flow.validate_parameters(deployment["parameters"])
        for schedule in deployment["schedules"]:
            CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])
        assert deployment["work_pool"]["name"]
