"""`syncd revoke`: take an object out of everything, and say where it had gone."""

import difflib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import yaml

from configs.errors import ConfigError
from configs.yaml_text import parse_yaml
from data.audit.parts import AuditError
from data.provenance import statement_path
from data.records import AssetRecord
from data.revocation import Tombstone, load_revocations, subject_of, write_revocations
from data.shards import ShardIndex, load_index, read_all, write_atomic
from data.signing import envelope_path
from flows.audit.find import find
from flows.audit.store import open_store
from flows.dvc_files import LOCK_FILE
from flows.graph import Graph, index_path, load_graph
from flows.history import DONE, published, stage_state, work_folder
from flows.results import delete_work, old_work
from flows.takedown.carry import STATEMENT_FILE
from flows.workspace import quiet_environment

LAST_STAGE, EVALUATE = "shard", "evaluate"
KEPT = (
    "kept: checkpoints trained on it, in artifacts/train and artifacts/models (train again with syncd run), and in "
    "artifacts/audit what was said of it in words: prompts, licence, scores and uses"
)
"""What a take-down leaves."""


@dataclass(frozen=True)
class StageUse:
    """What a stage holds of an object."""

    stage: str
    keys: tuple[str, ...]
    shards: tuple[str, ...]


@dataclass(frozen=True)
class Trained:
    """How a checkpoint on record used an object's images."""

    sha256: str
    as_target: int
    as_reference: int
    steps: int
    """Optimizer steps with at least one."""


@dataclass(frozen=True)
class Affected:
    asset: AssetRecord
    stages: tuple[StageUse, ...]
    checkpoints: tuple[Trained, ...]
    """All that the audit store knows, earlier ones too."""

    @property
    def published(self) -> tuple[str, ...]:
        return next((use.keys for use in self.stages if use.stage == LAST_STAGE), ())


def with_copies(workspace: Path, wanted: str) -> list[AssetRecord]:
    """An object, given by its id, address or sha256, then those with the same file or mesh under other ids.

    ConfigError if there is none or if several have that address.
    """
    folder = workspace / "artifacts" / "assets"
    records = [AssetRecord.model_validate(sample.record) for sample in read_all(folder, load_index(folder))]
    found = [own for own in records if wanted in (own.object_id, own.uri, own.source_sha256, own.mesh_sha256)]
    if len(found) == 1:
        (asset,) = found
        alike, left = [asset], [own for own in records if own is not asset]
        while more := [own for own in left if any(_files(own) & _files(known) for known in alike)]:
            alike, left = [*alike, *more], [own for own in left if own not in more]
        return alike
    if found:
        names = ", ".join(own.object_id for own in found[:5])
        raise ConfigError(f"{wanted} is {len(found)} objects ({names}); name one by its id")
    near = difflib.get_close_matches(wanted, [own.object_id for own in records], n=3, cutoff=0.4)
    hint = f"; near it: {', '.join(near)}" if near else ""
    raise ConfigError(f"no object of {folder} has the id, address or sha256 {wanted}{hint}")


def _files(asset: AssetRecord) -> set[str]:
    return {name for name in (asset.source_sha256, asset.mesh_sha256) if name}


def find_affected(workspace: Path, asset: AssetRecord) -> Affected:
    """Everything in the finished stages that is of an object."""
    graph = load_graph(workspace)
    uses = []
    for stage in graph.until(LAST_STAGE):
        if index_path(workspace, stage).exists():
            use = _use(stage, load_index(workspace / "artifacts" / stage), asset.object_id)
            if use.keys:
                uses.append(use)
    return Affected(asset, tuple(uses), _trained(workspace, asset.object_id))


def _use(stage: str, index: ShardIndex, object_id: str) -> StageUse:
    own = [(key, entry.name) for entry in index.shards for key in entry.keys if subject_of(stage, key) == object_id]
    return StageUse(stage, tuple(key for key, _ in own), tuple(dict.fromkeys(name for _, name in own)))


def _trained(workspace: Path, object_id: str) -> tuple[Trained, ...]:
    if not index_path(workspace, LAST_STAGE).exists():
        return ()
    store = open_store(workspace)
    try:
        rows = find(store, "asset", object_id)["checkpoints"]
    except AuditError:  # it was never published
        return ()
    names = ("as_target", "as_reference", "steps")
    return tuple(Trained(row["checkpoint_sha256"], *(row[name] for name in names)) for row in rows if row["steps"])


def bury(workspace: Path, found: Sequence[Affected], reason: str, with_files: bool) -> list[Tombstone]:
    """Write tombstones; with their files, these are refused under any other id, so that `found` must hold all copies.

    ConfigError unless all that would be made again is up to date: then only the take-down differs, and shards without
    the objects can stay.
    """
    revocations = load_revocations(workspace)
    _check_up_to_date(load_graph(workspace), workspace)
    date = datetime.now(UTC).isoformat(timespec="seconds")
    stones = [
        Tombstone(
            object_id=own.asset.object_id,
            split=own.asset.split,
            reason=reason,
            date=date,
            uri=own.asset.uri,
            source_sha256=own.asset.source_sha256,
            licence=own.asset.licence,
            sets=own.published,
            checkpoints=tuple(trained.sha256 for trained in own.checkpoints),
            files=tuple(sorted(_files(own.asset))) if with_files else (),
        )
        for own in found
    ]
    write_revocations(workspace, revocations.adding(stones))
    return stones


def _check_up_to_date(graph: Graph, workspace: Path) -> None:
    for stage in graph.until(LAST_STAGE):
        state = stage_state(graph, stage, workspace)
        if index_path(workspace, stage).exists() and state.state != DONE:
            raise ConfigError(
                f"{stage} is {state.state}; bring the dataset up to date first, so that only shards with the object "
                f"need to be made again: syncd run --until {LAST_STAGE}"
            )


def without_work(workspace: Path) -> list[str]:
    """Stages of which nothing but the published output is left, as after `syncd pull`: a take-down can keep none of
    their shards."""
    found = []
    for stage in load_graph(workspace).until(LAST_STAGE):
        index = published(workspace, stage)
        if index is not None and not (work_folder(workspace, stage, index.signature) / STATEMENT_FILE).exists():
            found.append(stage)
    return found


def affected_table(found: Sequence[Affected]) -> list[list[str]]:
    """Header and rows."""
    rows = [["object", "stage", "keys", "shards", ""]]
    for own in found:
        name = own.asset.object_id
        for use in own.stages:
            keys = ", ".join(use.keys[:4]) + (" ..." if use.keys[4:] else "")
            rows.append([name, use.stage, str(len(use.keys)), str(len(use.shards)), keys])
        for model in own.checkpoints:
            used = f"{model.as_target} times as target, {model.as_reference} as reference, in {model.steps} steps"
            rows.append([name, "checkpoint", "", "", f"{model.sha256[:16]}: {used}"])
    return rows


def tombstone_of(workspace: Path, wanted: str) -> Tombstone | None:
    """The tombstone of the object with this id, address or sha256."""
    stones = load_revocations(workspace).tombstones
    return next((own for own in stones if wanted in (own.object_id, own.uri, own.source_sha256, *own.files)), None)


def purge_earlier(workspace: Path) -> int:
    """Delete every output but the present ones, from work folders and from DVC's cache; bytes freed.

    With them the report, which embeds pictures of the dataset, and an evaluation that holds a revoked object: both are
    made again by the next run.
    """
    _drop(workspace, "report")
    if index_path(workspace, EVALUATE).exists():
        keys = load_index(workspace / "artifacts" / EVALUATE).keys
        if not set(load_revocations(workspace).objects).isdisjoint(keys):
            _drop(workspace, EVALUATE)
    cache = workspace / ".dvc" / "cache"
    before = _size(cache)
    command = [sys.executable, "-m", "dvc", "gc", "--workspace", "--force", "--quiet"]
    done = subprocess.run(command, cwd=workspace, env=quiet_environment(workspace), capture_output=True, text=True)
    if done.returncode:
        raise ConfigError(f"{workspace}: dvc gc failed: {done.stderr.strip()}")
    found = old_work(workspace)
    delete_work(found)
    return sum(item.bytes for item in found) + before - _size(cache)


def _drop(workspace: Path, stage: str) -> None:
    """A stage as if it had never run: its output, statement, signature and work, and what DVC knows of it."""
    for folder in (workspace / "artifacts" / stage, workspace / "artifacts" / ".work" / stage):
        shutil.rmtree(folder, ignore_errors=True)
    for path in (statement_path(workspace, stage), envelope_path(workspace, stage)):
        path.unlink(missing_ok=True)
    lock = workspace / LOCK_FILE
    content = parse_yaml(lock.read_text(encoding="utf-8")) if lock.exists() else {}
    if content.get("stages", {}).pop(stage, None) is not None:
        write_atomic(lock, yaml.safe_dump(content, sort_keys=False).encode())


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
