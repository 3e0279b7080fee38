"""`syncd deploy`: what the command needs is imported when it runs."""

import os
from typing import Annotated

import typer

from flows.options import RuntimeOption, runtime_of


def deploy(
    webhook: Annotated[
        str | None, typer.Option(help="Address that every run that ends badly, or is late, is posted to.")
    ] = None,
    runtime: RuntimeOption = None,
) -> None:
    """Put the deployments of prefect.yaml, their work pools and the automations on a Prefect server."""
    from configs.errors import ConfigError
    from flows.workspace import PROJECT

    address = runtime_of(runtime, None).prefect_api_url or os.environ.get("PREFECT_API_URL")
    if not address:
        raise ConfigError(
            "no Prefect server is named, and one that ends with this command runs nothing; set PREFECT_API_URL, or "
            "prefect_api_url in the runtime"
        )
    os.environ["PREFECT_API_URL"] = address
    from flows.deployment.apply import deploy as apply
    from flows.deployment.automation import LOST_NAME, NAME, mark_lost, notify

    for name in apply(PROJECT / "prefect.yaml"):
        typer.echo(f"deployment {name}")
    mark_lost()
    typer.echo(f"automation {LOST_NAME} ends runs whose machine died")
    if webhook:
        notify(webhook)
        typer.echo(f"automation {NAME} posts to {webhook}")
