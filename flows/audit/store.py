"""The audit store of a workspace: brought up to date from its finished stages, and opened for questions."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from configs.errors import ConfigError
from data.audit.parts import AuditError, is_current, part_folder, store_folder
from data.audit.query import Store
from data.audit.tables import Kind
from data.outside_text import on_one_line
from data.shards import ShardError, load_index, sha256_file
from flows.errors import warn
from tasks.auditing.chain import (
    CHECKPOINT_STAGE,
    DATASET_STAGE,
    ChainError,
    Link,
    chain_of,
    sources_of,
    weights_sha256,
)

NOT_TAKEN = (ChainError, ShardError, AuditError, LookupError, ValueError, TypeError, AttributeError, RecursionError)
"""What files raise that are not, or hold not, what this project writes."""


def update(workspace: Path) -> list[str]:
    """Take in the published dataset and checkpoint of a workspace, if the store does not hold them as they are.

    Returns why one could not be taken in, a line each: stages that are not made from each other, files that are not
    what their index says. What the store already holds stays as it is. OSError if it cannot be written to.
    """
    return update_into(workspace, store_folder(workspace))


def update_into(workspace: Path, store: Path) -> list[str]:
    """The same into any store."""
    notes = []
    for stage, take in ((DATASET_STAGE, _take_dataset), (CHECKPOINT_STAGE, _take_checkpoint)):
        if not (workspace / "artifacts" / stage / "index.json").exists():
            break
        try:
            take(workspace, chain_of(workspace, stage), store)
        except NOT_TAKEN as error:
            notes.append(f"audit: the {stage} stage is not taken into the store: {type(error).__name__}: {error}")
    return notes


# What writes a part is imported when one is due: a question is not kept waiting for NumPy and schemas.


def _take_dataset(workspace: Path, chain: list[Link], store: Path) -> None:
    with _due(store, "datasets", str(chain[-1].index_sha256), chain) as due:
        if due:
            from tasks.auditing.dataset import write_dataset

            write_dataset(workspace, chain, store)


def _take_checkpoint(workspace: Path, chain: list[Link], store: Path) -> None:
    sha256 = weights_sha256(load_index(workspace / "artifacts" / CHECKPOINT_STAGE))
    with _due(store, "checkpoints", sha256, chain) as due:
        if due:
            from tasks.auditing.checkpoint import write_checkpoint

            shards = load_index(workspace / "artifacts" / DATASET_STAGE).shards
            shard_of = {key: entry.sha256 for entry in shards for key in entry.keys}
            write_checkpoint(workspace, chain, shard_of, store)


@contextmanager
def _due(store: Path, kind: Kind, sha256: str, chain: list[Link]) -> Iterator[bool]:
    """Whether a part has to be written. Then one process at a time does it, and the others wait and find it done; a
    store that is up to date is not touched, so that it may be read only."""
    folder, sources = part_folder(store, kind, sha256), sources_of(chain)
    if is_current(folder, sources):
        yield False
        return
    store.mkdir(parents=True, exist_ok=True)
    with (store / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield not is_current(folder, sources)


def open_store(workspace: Path, *others: Path) -> Store:
    """The up to date store of a workspace, together with those of others. What could not be taken in is a warning.

    AuditError if there is nothing in it.
    """
    folders = [workspace, *others]
    for folder in folders:
        try:
            notes = update(folder)
        except OSError as error:
            notes = [not_written(folder, error)]
        for note in notes:
            warn(on_one_line(note))
    store = Store(*map(store_folder, folders))
    if not store.parts:
        raise AuditError(f"{workspace}: no dataset has been published here; make one with: syncd run --until shard")
    return store


def not_written(workspace: Path, error: OSError) -> str:
    """That a store, perhaps one of somebody else, stays as it is."""
    return (
        f"{store_folder(workspace)}: the audit store was not brought up to date ({error}); to ask it about what the "
        "workspace holds now, copy the workspace to where you may write"
    )


def workspace_of(folder: Path) -> Path:
    """The folder as a workspace; ConfigError if nothing was ever made in it."""
    if not (folder / "artifacts").is_dir():
        raise ConfigError(f"{folder}: no workspace, artifacts/ is missing; name one with --workspace")
    return folder.resolve()


def dataset_here(workspace: Path) -> str | None:
    """sha256 that names the dataset that the workspace holds at present."""
    path = workspace / "artifacts" / DATASET_STAGE / "index.json"
    return sha256_file(path) if path.exists() else None


def open_versions(workspace: Path, *versions: str) -> tuple[Store, list[str]]:
    """One store with all of these datasets, and their digests. A version is a digest, which may be shortened, known to
    the store of `workspace`; or a workspace, which stands for the dataset that it holds at present.

    AuditError for one that is not there.
    """
    others = {version: workspace_of(Path(version)) for version in versions if Path(version).is_dir()}
    folders = [] if set(versions) <= set(others) else [workspace_of(workspace)]
    store = open_store(*dict.fromkeys([*folders, *others.values()]))
    digests = []
    for version in versions:
        sha256 = dataset_here(others[version]) if version in others else version
        found = store.resolve("datasets", sha256) if sha256 else None
        if found is None:
            raise AuditError(
                f"{version}: no dataset of this store; what there is: syncd audit sql 'SELECT * FROM datasets'"
            )
        digests.append(found)
    return store, digests
