"""`syncd plan`: which stages would run and why, and what is left to do; built on `dvc status --json`."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from configs.load import load_resolved
from configs.schema import Recipe, Runtime
from data.revocation import REVOKED_FILE
from flows.engine import plan_shards, stage_context
from flows.errors import is_expected
from flows.forecast import expected_keys, expected_shards
from flows.graph import INPUTS_FILE, RECIPE_FILE, VERSIONS_FILE, Graph, load_graph, tracked_values
from flows.history import StageState, stage_state
from flows.worker import StageError, stage_module
from flows.workspace import queued_mark, quiet_environment

FIRST = "assets"
MOST_CAUSES = 3
MOST_CHARACTERS = 24


@dataclass(frozen=True)
class PlannedStage:
    """`seconds` and `bytes` are what is left to spend; None while nothing is known."""

    stage: str
    would_run: bool
    causes: list[str]
    shards: int
    total_shards: int | None
    exact: bool
    seconds: float | None
    bytes: float | None
    keys: int | None = None
    """Objects or sets of the whole stage, if that is known or expected."""


def make_plan(
    workspace: Path, runtime: Runtime, until: str | None = None, package: str = "tasks"
) -> list[PlannedStage]:
    """What `syncd run` would do. Stages after one that runs are planned on what was there last time."""
    graph = load_graph(workspace)
    changes = dvc_status(workspace)
    planned: dict[str, PlannedStage] = {}
    recipe = load_resolved(workspace / RECIPE_FILE)
    for stage in graph.until(until):
        upstream = [name for name in graph.node(stage).inputs if planned[name].would_run]
        causes = [f"after {', '.join(upstream)}"] if upstream else []
        causes = explain(changes.get(stage, []), upstream, changed_values(graph, stage, workspace)) + causes
        if queued_mark(workspace, stage).exists():
            causes.append("failed keys are queued again")
        state = stage_state(graph, stage, workspace)
        first = planned.get(FIRST)
        objects = first.keys if first and first.keys is not None else recipe.assets.count or None
        expected = expected_keys(recipe, objects).get(stage) if objects else None
        planned[stage] = _planned(graph, workspace, runtime, state, causes, bool(upstream), package, recipe, expected)
    return list(planned.values())


def dvc_status(workspace: Path) -> dict[str, list[Any]]:
    """`dvc status --json`: stage -> list of changes."""
    command = [sys.executable, "-m", "dvc", "status", "--json"]
    done = subprocess.run(command, cwd=workspace, env=quiet_environment(workspace), capture_output=True, text=True)
    if done.returncode:
        raise StageError(f"dvc status failed in {workspace}: {done.stderr.strip() or done.stdout.strip()}")
    return json.loads(done.stdout)


def changed_values(graph: Graph, stage: str, workspace: Path) -> list[str]:
    """Tracked values that differ from those of the last run in dvc.lock, as `select.min_quality 6.0 -> 5.5`."""
    lock = workspace / "dvc.lock"
    stages = yaml.safe_load(lock.read_text(encoding="utf-8")).get("stages", {}) if lock.exists() else {}
    before = stages.get(stage, {}).get("params", {})
    words = []
    for file, values in tracked_values(graph.node(stage), workspace).items():
        then = before.get(file, {})
        pairs = [pair for key, value in values.items() if key in then for pair in _leaves(key, then[key], value)]
        label = {VERSIONS_FILE: "version of ", INPUTS_FILE: "files of ", REVOKED_FILE: "revoked "}.get(file, "")
        words += [f"{label}{key} {_short(old)} -> {_short(new)}" for key, old, new in pairs]
    return words


def _leaves(key: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(name for name in new if name not in old)]:
            yield from _leaves(f"{key}.{name}", old.get(name), new.get(name))
    elif old != new:
        yield key, old, new


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= MOST_CHARACTERS else text[:MOST_CHARACTERS] + "..."


def explain(changes: list[Any], upstream: list[str], values: list[str]) -> list[str]:
    """DVC's changes of one stage in words, `values` in place of changed parameters.

    What an upstream stage will change anyway is left out.
    """
    causes: list[str] = []
    for change in changes:
        if isinstance(change, str):
            causes.append(change)
            continue
        for path, what in change.get("changed deps", {}).items():
            parts = path.split("/")
            if parts[0] == "artifacts" and (parts[1] in upstream or parts[-1].split(".")[0] in upstream):
                continue
            if what == "new":
                return ["never run"]
            causes += (
                (values or [f"{key} {how}" for key, how in what.items()])
                if isinstance(what, dict)
                else [f"{path} {what}"]
            )
        causes += [f"{path} {what}" for path, what in change.get("changed outs", {}).items()]
    return list(dict.fromkeys(causes))


def _planned(
    graph: Graph,
    workspace: Path,
    runtime: Runtime,
    state: StageState,
    causes: list[str],
    after_upstream: bool,
    package: str,
    recipe: Recipe,
    expected: int | None,
) -> PlannedStage:
    """`expected`: keys of the stage by the recipe alone, for one that never ran."""
    stage = state.stage
    if not causes:
        total = state.total_shards
        return PlannedStage(stage, False, [], total or 0, total, True, 0.0, 0.0, state.total_keys)
    exact = not after_upstream
    shards, keys, total_shards, total_keys = 0, 0, None, None
    if exact:
        try:
            specs = plan_shards(stage_module(package, stage), stage_context(graph, stage, workspace, runtime))
        except Exception as error:
            if not is_expected(error):
                raise
            causes = [*causes, f"cannot be planned: {error}"]
            total = None if expected is None else expected_shards(recipe, stage, expected)
            return PlannedStage(stage, True, causes, 0, total, total is None, None, None, expected)
        shards, keys, total_shards, total_keys = state.shards, state.keys, len(specs), sum(len(s.keys) for s in specs)
    else:
        total_shards, total_keys = _guess(workspace, stage)
        if total_keys is None and expected is not None:
            total_shards, total_keys = expected_shards(recipe, stage, expected), expected
    seconds = size = None
    if state.pace is not None and total_keys is not None and total_shards is not None:
        left = total_keys - keys
        workers = max(1, min(runtime.workers, total_shards - shards))
        seconds, size = left * state.pace.seconds_per_key / workers, left * state.pace.bytes_per_key
    return PlannedStage(stage, True, causes, shards, total_shards, exact, seconds, size, total_keys)


def _guess(workspace: Path, stage: str) -> tuple[int | None, int | None]:
    """Shards and keys of the stage's last plan, whatever its signature."""
    plans = sorted((workspace / "artifacts" / ".work" / stage).glob("*/plan.json"), key=lambda p: p.stat().st_mtime)
    if not plans:
        return None, None
    size = json.loads(plans[-1].read_bytes())
    return size["shards"], size["keys"]


def plan_json(planned: list[PlannedStage]) -> list[dict[str, Any]]:
    return [asdict(item) for item in planned]


def plan_table(planned: list[PlannedStage]) -> list[list[str]]:
    """Header and rows."""
    rows = [["stage", "would run", "why", "keys", "shards done", "est. time", "est. disk"]]
    for item in planned:
        more = len(item.causes) - MOST_CAUSES
        why = "; ".join(item.causes[:MOST_CAUSES]) + (f"; and {more} more" if more > 0 else "")
        total = "?" if item.total_shards is None else f"{'' if item.exact else '~'}{item.total_shards}"
        rows.append(
            [
                item.stage,
                "yes" if item.would_run else "no",
                why,
                "?" if item.keys is None else f"{'' if item.exact else '~'}{item.keys}",
                f"{item.shards}/{total}",
                seconds_text(item),
                bytes_text(item),
            ]
        )
    return rows


def seconds_text(item: PlannedStage) -> str:
    from flows.console import clock_text

    return "unknown" if item.seconds is None else clock_text(item.seconds) if item.would_run else "-"


def bytes_text(item: PlannedStage) -> str:
    return "unknown" if item.bytes is None else f"{item.bytes / 1e6:.1f} MB" if item.would_run else "-"
