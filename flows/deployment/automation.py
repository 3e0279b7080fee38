"""Notification of failed runs: a Prefect automation that posts to a webhook, made or brought up to date.

Import after the environment is set (flows.workspace.quiet_environment): Prefect reads it at import.
"""

import json

from prefect.automations import Automation
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import get_client
from prefect.events.actions import CallWebhook
from prefect.events.schemas.automations import EventTrigger, Posture

NAME = "syncd-failures"
TAG = "syncd"
"""Of every deployment in prefect.yaml: its runs are watched, and not the flow runs of their stages."""
STATES = ("Failed", "Crashed", "TimedOut", "Late", "Refused")
"""Names of the states that are told: the run's own failures, a run that no worker takes, a model that regresses."""
FIELDS = {
    "flow": "flow.name",
    "run": "flow_run.name",
    "state": "flow_run.state.name",
    "error": "flow_run.state.message",
    "workspace": "flow_run.parameters.workspace",
    "url": "flow_run|ui_url",
}
TEXT = "flow.name ~ ' ' ~ flow_run.state.name ~ ' in ' ~ flow_run.parameters.workspace ~ ': ' ~ flow_run.state.message"
"""The same as one line under `text`, which Slack, Mattermost and Teams show."""


def notify(url: str) -> None:
    """Post every failure of a deployment's run to `url` as JSON; a second call replaces the address of the first."""
    block = Webhook(url=url, headers={"Content-Type": "application/json"}).save(NAME, overwrite=True)
    automation = Automation(
        name=NAME,
        description="Posts failed, crashed, late and refused runs of syncd to a webhook; made by syncd deploy.",
        trigger=EventTrigger(
            expect={f"prefect.flow-run.{state}" for state in STATES},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.id": f"prefect.tag.{TAG}", "prefect.resource.role": "tag"},
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[CallWebhook(block_document_id=block, payload=payload())],
    )
    with get_client(sync_client=True) as client:
        earlier = client.read_automations_by_name(NAME)
    if not earlier:
        automation.create()
        return
    automation.id = earlier[0].id
    automation.update()


def payload() -> str:
    """A template that gives JSON: Prefect fills in what is between the braces."""
    filled = {"text": TEXT, **FIELDS}
    return "{" + ", ".join(f"{json.dumps(key)}: {{{{ ({value})|tojson }}}}" for key, value in filled.items()) + "}"
