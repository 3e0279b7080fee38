"""Prefect automations, made or brought up to date: one posts runs that end badly to a webhook, one finds the runs whose
machine died, which would be Running for ever.

Import after the environment is set (flows.workspace.quiet_environment): Prefect reads it at import.
"""

import json
from datetime import timedelta
from typing import Any

from prefect.automations import Automation
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import CallWebhook, ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture

NAME, LOST_NAME = "syncd-failures", "syncd-lost"
TAG = "syncd"
"""Of every deployment in prefect.yaml: its runs are watched, and not the flow runs of their stages."""
STATES = ("Failed", "Crashed", "TimedOut", "Cancelled", "Late", "Refused")
"""Names of the states that are told: the run's own failures, a run cancelled by a person or because the one before it
has not ended, a run that no worker takes, a model that regresses."""
LOST_AFTER = timedelta(minutes=10)
"""Without a heartbeat; prefect.yaml says how often one comes."""
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
OF_OUR_RUNS: dict[str, Any] = {
    "match": {"prefect.resource.id": "prefect.flow-run.*"},
    "match_related": {"prefect.resource.id": f"prefect.tag.{TAG}", "prefect.resource.role": "tag"},
    "for_each": {"prefect.resource.id"},
}
"""Of a trigger: asked of every such run alone."""


def notify(url: str) -> None:
    """Post every bad end of a deployment's run to `url` as JSON; a second call replaces the address of the first."""
    block = Webhook(url=url, headers={"Content-Type": "application/json"}).save(NAME, overwrite=True)
    told = {f"prefect.flow-run.{state}" for state in STATES}
    _save(
        Automation(
            name=NAME,
            description="Posts runs of syncd that end badly, or are late, to a webhook; made by syncd deploy.",
            trigger=EventTrigger(expect=told, posture=Posture.Reactive, threshold=1, **OF_OUR_RUNS),
            actions=[CallWebhook(block_document_id=block, payload=payload())],
        )
    )


def mark_lost() -> None:
    """Have a run end as Crashed when no heartbeat and no other word of it has come for LOST_AFTER."""
    message = f"no heartbeat for {LOST_AFTER}: its machine or its worker died; the next run resumes"
    _save(
        Automation(
            name=LOST_NAME,
            description="Ends runs of syncd whose heartbeats ceased as Crashed; made by syncd deploy.",
            trigger=EventTrigger(
                after={"prefect.flow-run.heartbeat"},
                expect={"prefect.flow-run.*"},
                posture=Posture.Proactive,
                threshold=1,
                within=LOST_AFTER,
                **OF_OUR_RUNS,
            ),
            actions=[ChangeFlowRunState(state=StateType.CRASHED, message=message)],
        )
    )


def _save(automation: Automation) -> None:
    """In the place of the one of that name."""
    with get_client(sync_client=True) as client:
        earlier = client.read_automations_by_name(automation.name)
    if not earlier:
        automation.create()
        return
    automation.id = earlier[0].id
    automation.update()


def payload() -> str:
    """A template that gives JSON: Prefect fills in what is between the braces."""
    filled = {"text": TEXT, **FIELDS}
    return "{" + ", ".join(f"{json.dumps(key)}: {{{{ ({value})|tojson }}}}" for key, value in filled.items()) + "}"
