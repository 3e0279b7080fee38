"""What `syncd verify` asks of a workspace beyond the digests that statements name.

Every function returns lines that each name a file. A hostile reader's questions: do the statements say what dvc.yaml
and the active recipe say; do receipts and dvc.lock agree with what is published; do times run forward?
"""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from hashlib import md5
from pathlib import Path
from typing import Any

import yaml

from configs.errors import ConfigError
from configs.yaml_text import parse_yaml
from data.provenance import NOT_BYTES, dependencies_of, input_indexes, read_statement, statement_path
from data.shards import Receipt, ShardError, ShardIndex, parse_receipt, sha256_file
from flows.dvc_files import LOCK_FILE
from flows.graph import Graph, index_path, tracked_values
from flows.history import work_folder
from flows.workspace import queued_mark


def recipe_problems(workspace: Path, graph: Graph, stage: str) -> list[str]:
    """Where the statement of a stage was made with other parameters than are active, or from other inputs than the
    stage has."""
    path = statement_path(workspace, stage)
    statement = _readable(path)
    if statement is None:
        return []
    problems = []
    named = {item["name"] for item in dependencies_of(statement) if item["name"].startswith("artifacts/")}
    wanted = set()
    for name in graph.node(stage).inputs:
        wanted |= {file.relative_to(workspace).as_posix() for file in _files_of(workspace, name)}
    if named != wanted:
        problems.append(f"{path}: names the inputs {sorted(named)}; by dvc.yaml {stage} reads {sorted(wanted)}")
    try:
        active = json.loads(json.dumps(tracked_values(graph.node(stage), workspace)))
    except ConfigError as error:
        return [*problems, str(error)]
    made_with = statement["predicate"]["buildDefinition"]["externalParameters"]["params"]
    differing = sorted(_differences(made_with, active))
    if differing:
        problems.append(
            f"{path}: made with another recipe: {'; '.join(differing[:5])}; bring {stage} up to date with: syncd run"
        )
    return problems


def _files_of(workspace: Path, stage: str) -> tuple[Path, Path]:
    return index_path(workspace, stage), statement_path(workspace, stage)


def _differences(before: Any, after: Any, key: str = "") -> Iterator[str]:
    """`key BEFORE, now AFTER` of every value that differs and may change bytes."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in before.keys() | after.keys():
            if name not in NOT_BYTES:
                yield from _differences(before.get(name), after.get(name), f"{key}.{name}" if key else name)
    elif before != after:
        yield f"{key} {_short(before)}, active {_short(after)}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 80 else text[:77] + "..."


def receipt_problems(workspace: Path, stage: str) -> list[str]:
    """Receipts of a published stage that are not what was published. Where there are none (another machine, syncd gc)
    nothing is missing: they are for resuming."""
    if queued_mark(workspace, stage).exists():
        return []  # failed keys are being made again: receipts run ahead of the index
    try:
        index = ShardIndex.model_validate_json(index_path(workspace, stage).read_bytes())
    except (OSError, ValueError):
        return []  # the check of digests names it
    problems = []
    entries = {entry.name: entry for entry in index.shards}
    failed = {(failure.key, failure.reason, failure.detail) for failure in index.failed}
    for path in sorted(work_folder(workspace, stage, index.signature).glob("[0-9]" * 6 + ".json")):
        try:
            receipt = parse_receipt(path)
        except ShardError as error:
            problems.append(str(error))
            continue
        if not _agrees(receipt, index, entries, failed):
            problems.append(f"{path}: not the receipt of what {index_path(workspace, stage)} lists; delete it")
    return problems


def _agrees(receipt: Receipt, index: ShardIndex, entries: dict[str, Any], failed: set[tuple[str, str, str]]) -> bool:
    entry = entries.get(receipt.name)
    return (
        entry is not None
        and (receipt.stage, receipt.signature) == (index.stage, index.signature)
        and (receipt.bytes, receipt.sha256, receipt.keys) == (entry.bytes, entry.sha256, entry.keys)
        and {(failure.key, failure.reason, failure.detail) for failure in receipt.failed} <= failed
    )


def lock_problems(workspace: Path, stages: Sequence[str]) -> list[str]:
    """Statements that DVC recorded otherwise. This finds damage to the last statement of a chain, which no other one
    names; against intent only a signature helps, since `dvc commit -f` records whatever is there."""
    path = workspace / LOCK_FILE
    if not path.exists():
        return []
    try:
        locked = parse_yaml(path.read_text(encoding="utf-8"))["stages"]
        recorded = {out["path"]: out.get("md5") for entry in locked.values() for out in entry.get("outs", [])}
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        return [f"{path}: not a lock file of DVC ({error!r}); bring it back from git, or write it with: syncd run"]
    problems = []
    for stage in stages:
        statement = statement_path(workspace, stage)
        known = recorded.get(statement.relative_to(workspace).as_posix())
        if known is None or not statement.is_file():
            continue
        found = md5(statement.read_bytes(), usedforsecurity=False).hexdigest()
        if found != known:
            problems.append(f"{statement}: md5 {found}, {path} recorded {known}; restore or remake it with: syncd run")
    return problems


def time_warnings(workspace: Path, graph: Graph, stages: Sequence[str]) -> list[str]:
    """Where the times of statements run backwards or lie ahead.

    Warnings, since times prove nothing: clocks are set back without harm, and a forger chooses times that fit.
    """
    finished, warnings = {}, []
    for stage in stages:
        path = statement_path(workspace, stage)
        statement = _readable(path)
        if statement is None:
            continue
        metadata = statement["predicate"]["runDetails"]["metadata"]
        started, ended = (_moment(metadata[key]) for key in ("startedOn", "finishedOn"))
        finished[stage] = ended
        if started > ended:
            warnings.append(f"{path}: started {started.isoformat()}, after it finished ({ended.isoformat()})")
        if ended > datetime.now(UTC):
            warnings.append(f"{path}: finished {ended.isoformat()}, which has not come yet by this machine's clock")
        # Of an input that was made again since, the check of digests speaks.
        named = input_indexes(statement)
        for name in graph.node(stage).inputs:
            index = index_path(workspace, name)
            if name not in finished or not index.is_file() or named.get(name) != sha256_file(index):
                continue
            if finished[name] > ended:
                warnings.append(
                    f"{path}: finished {ended.isoformat()}, before its input {name} ({finished[name].isoformat()}); "
                    "a clock was set back, or one of the two was not made in this run"
                )
    return warnings


def _moment(text: str) -> datetime:
    """A time with its zone; one without is taken for UTC."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _readable(path: Path) -> dict[str, Any] | None:
    """The statement, or None if it is missing or none: the check of digests says so."""
    try:
        return read_statement(path) if path.exists() else None
    except ShardError:
        return None
