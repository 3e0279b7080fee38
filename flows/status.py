"""`syncd status`: per stage what is done, what failed or crashed and why, what was kept, and how fast it went."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows.crashes import crashes_text
from flows.graph import load_graph
from flows.history import StageState, stage_state
from flows.signing import signature_states


def status(workspace: Path) -> list[StageState]:
    graph = load_graph(workspace)
    return [stage_state(graph, stage, workspace) for stage in graph.names]


def status_json(states: list[StageState], workspace: Path) -> list[dict[str, Any]]:
    """With what the signature of each stage's statement is worth; None for a stage without a statement."""
    signed = {item.stage: item.text for item in signature_states(workspace, {})}
    return [asdict(state) | {"signature": signed.get(state.stage)} for state in states]


def kept_text(state: StageState) -> str:
    """`kept / dropped` of a stage that selects."""
    summary = state.summary
    if not {"sets", "kept_sets", "images", "kept_images"} <= set(summary):
        return ""
    sets, images = (f"{summary[f'kept_{name}']} of {summary[name]} {name}" for name in ("sets", "images"))
    return f"{sets}, {images}"


def status_table(states: list[StageState]) -> list[list[str]]:
    """Header and rows."""
    rows = [["stage", "state", "shards", "keys", "failed", "crashes", "kept", "rate"]]
    for state in states:
        failed = ", ".join(f"{count} {reason}" for reason, count in sorted(state.failed.items()))
        rate = f"{1 / state.pace.seconds_per_key:.2f}/s" if state.pace and state.pace.seconds_per_key else ""
        rows.append(
            [
                state.stage,
                state.state,
                _of(state.shards, state.total_shards),
                _of(state.keys, state.total_keys),
                failed or "0",
                crashes_text(state.crashes),
                kept_text(state),
                rate and rate + (" earlier" if state.pace and state.pace.earlier else ""),
            ]
        )
    return rows


def _of(done: int, total: int | None) -> str:
    return f"{done}/{'?' if total is None else total}"
