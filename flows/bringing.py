"""Inputs of a stage out of the store, for tasks on machines that share no disk. Shards follow when they are read."""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from data.origin import origin_of, set_origin
from data.provenance import statement_path
from data.shards import ShardError, ShardIndex, load_index, parse_index, write_atomic
from data.signing import drop_signature_of_another
from data.store import MissingError, Store
from flows.envelopes import bring_signatures
from flows.exclusive import sole_bringer
from flows.graph import Graph, index_path, stage_signature
from flows.mirror import INDEX, STATEMENT, at_once, stage_store


def bring_inputs(graph: Graph, stage: str, workspace: Path, url: str | None) -> None:
    """Bring the inputs of `stage`, and theirs, that are not here as the store has them; their shards follow when they
    are read. What was published here is left alone.

    ShardError if the store has not got one either, or no longer.
    """
    if url is None:
        return
    for name in graph.ancestors(stage):
        if _is_own(workspace, name):
            continue
        signature = stage_signature(graph, name, workspace)
        store = stage_store(url, name, signature)
        try:
            if _is_brought(store, workspace, name, signature):
                continue
            with sole_bringer(workspace / "artifacts", name):
                if not _is_own(workspace, name) and not _is_brought(store, workspace, name, signature):
                    _bring(store, workspace, name, signature)
                    drop_signature_of_another(workspace, name)
                    bring_signatures(workspace, [name], url)
        except MissingError as error:
            folder = workspace / "artifacts"
            here = index_path(workspace, name).exists()
            what = f"was brought to {folder} and left the store" if here else f"is neither in {folder} nor in the store"
            raise ShardError(
                f"{stage} needs {name}, which {what}: {error}; run it first, on any machine with this store: "
                f"syncd run --until {name}"
            ) from error


def _is_own(workspace: Path, stage: str) -> bool:
    return index_path(workspace, stage).exists() and origin_of(workspace / "artifacts" / stage) is None


def _is_brought(store: Store, workspace: Path, stage: str, signature: str) -> bool:
    """Whether the index here is the store's. A retry of failed keys gives another one under the same signature."""
    path = index_path(workspace, stage)
    if not path.exists() or load_index(path.parent).signature != signature:
        return False
    return store.read(INDEX) == path.read_bytes()


def _bring(store: Store, workspace: Path, stage: str, signature: str) -> None:
    """A published stage without its shards, built beside its place: another process may be reading what is there.

    Shards that were fetched before and are the same stay.
    """
    data, statement = store.read(INDEX), store.read(STATEMENT)
    index = parse_index(data, store.url_of(INDEX))
    if (index.stage, index.signature) != (stage, signature):
        raise ShardError(f"{store.url_of(INDEX)}: not the index of {stage} under signature {signature}; delete it")
    folder, target = workspace / "artifacts" / stage, statement_path(workspace, stage)
    building, before = (folder.with_name(f".{stage}.{suffix}") for suffix in ("bringing", "before"))
    for path in (building, before):
        shutil.rmtree(path, ignore_errors=True)
    for path in (building, target.parent):
        path.mkdir(parents=True, exist_ok=True)
    at_once(lambda file: store.fetch(file.name, building / file.name, file.bytes, file.sha256), index.files)
    _keep_shards(folder, building, index)
    write_atomic(building / INDEX, data)
    set_origin(folder, store.url)
    write_atomic(target, statement)
    if folder.exists():
        os.rename(folder, before)
    os.rename(building, folder)
    shutil.rmtree(before, ignore_errors=True)


def _keep_shards(folder: Path, building: Path, index: ShardIndex) -> None:
    """Link the shards of `folder` that the index has too; whoever reads them checks their bytes."""
    if not (folder / INDEX).exists():
        return
    same = {(entry.name, entry.sha256) for entry in load_index(folder).shards}
    for entry in index.shards:
        if (entry.name, entry.sha256) in same and (folder / entry.name).exists():
            with suppress(OSError):  # no hard links on this file system: it is fetched again
                os.link(folder / entry.name, building / entry.name)
