"""Whether the audit store agrees with itself, with its statements, and with the artifacts it was read from."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from data.audit.parts import Manifest, check_part, parts_of, read_manifest, store_folder
from data.audit.query import Store
from data.audit.tables import KEYS, Kind, tables_of
from flows.audit.store import update_into
from tasks.auditing.chain import Link, check_chain, link_of, sources_of
from tasks.auditing.checkpoint import LEDGER, WEIGHTS, ledger_digest

KINDS: tuple[Kind, ...] = ("datasets", "checkpoints")
STATEMENTS: dict[Kind, str] = {"datasets": "statements", "checkpoints": "training_statements"}


def check_store(workspace: Path, deep: bool) -> list[str]:
    """Problems of the store, each naming its part.

    Files against their manifest; the manifest against the statements in the part; these against each other; what the
    tables say of shards, weights and ledger against the statements. So earlier versions are checked too, whose
    artifacts are gone. `deep`: also every ledger, by writing its file again and taking its digest; and the tables of
    the dataset and the checkpoint that the workspace holds, by reading them from the artifacts once more.
    """
    store = store_folder(workspace)
    folders = [folder for kind in KINDS for folder in parts_of(store, kind)]
    problems = {folder: found for folder in folders if (found := check_part(folder))}
    opened = Store(store, without=problems)
    listed = [problem for found in problems.values() for problem in found]
    for folder, manifest in opened.parts:
        listed += _check_statements(opened, folder, manifest, deep)
    if deep:
        listed += _check_tables(workspace, opened)
    return listed


def _check_statements(store: Store, folder: Path, manifest: Manifest, deep: bool) -> Iterator[str]:
    kind, sha256 = manifest.kind, manifest.sha256
    rows = store.rows(f"SELECT stage, statement, body FROM {STATEMENTS[kind]} WHERE {KEYS[kind]} = ?", [sha256])
    links = [link_of(row["stage"], row["body"].encode()) for row in rows]
    yield from check_chain(links, str(folder))
    for row, link in zip(rows, links, strict=True):
        if row["statement"] != link.sha256:
            yield f"{folder}: statement of {link.stage} is {link.sha256}, the table says {row['statement']}"
    if not links:
        yield f"{folder}: holds no statement"
        return
    if sources_of(links) != manifest.sources:
        yield f"{folder}: its manifest names other artifacts than the statements in it"
    check = _check_dataset if kind == "datasets" else _check_checkpoint
    yield from check(store, folder, sha256, links[-1], deep)


def _check_dataset(store: Store, folder: Path, sha256: str, shard: Link, deep: bool) -> Iterator[str]:
    if shard.index_sha256 != sha256:
        yield f"{folder}: is of dataset {sha256}, its statement of {shard.index_sha256}"
    rows = store.rows(
        "SELECT DISTINCT shard, shard_sha256 FROM sets WHERE dataset_sha256 = ? AND fate = 'published'", [sha256]
    )
    for row in rows:
        if shard.subjects.get(f"artifacts/shard/{row['shard']}") != row["shard_sha256"]:
            yield f"{folder}: sets of shard {row['shard']} {row['shard_sha256']}, which its statement does not name"


def _check_checkpoint(store: Store, folder: Path, sha256: str, train: Link, deep: bool) -> Iterator[str]:
    own = store.row("SELECT ledger_sha256, dataset_sha256 FROM checkpoints WHERE checkpoint_sha256 = ?", [sha256])
    for name, said in ((WEIGHTS, sha256), (LEDGER, own["ledger_sha256"])):
        stated = train.subjects.get(f"artifacts/train/{name}")
        if stated != said:
            yield f"{folder}: {name} is {said}, its statement names {stated}"
    if not deep:
        return
    query = "SELECT * FROM ledger WHERE checkpoint_sha256 = ? ORDER BY step, place, slot NULLS FIRST"
    try:
        found = ledger_digest(store.rows(query, [sha256]))
    except ValueError as error:
        found = f"that is none ({error})"
    if found != own["ledger_sha256"]:
        yield f"{folder}: its ledger gives a file {found}, the one of the training is {own['ledger_sha256']}"


def _check_tables(workspace: Path, opened: Store) -> Iterator[str]:
    """The parts that the workspace can make again, table by table."""
    with tempfile.TemporaryDirectory(prefix="syncd-audit-") as scratch:
        fresh = store_folder(Path(scratch))
        update_into(workspace, fresh)
        for folder, manifest in Store(fresh).parts:
            place = {m.sha256: part for part, m in opened.parts if m.kind == manifest.kind}.get(manifest.sha256)
            if place is None:
                yield f"{store_folder(workspace)}: lacks the {manifest.kind[:-1]} {manifest.sha256} of the workspace"
                continue
            yield from _compare(folder, place, manifest.kind)


def _compare(fresh: Path, kept: Path, kind: Kind) -> Iterator[str]:
    from pyarrow import parquet

    for table in tables_of(kind):
        name = f"{table.name}.parquet"
        if read_manifest(fresh).files[name] == read_manifest(kept).files[name]:
            continue
        again, held = (parquet.read_table(folder / name) for folder in (fresh, kept))
        if not again.equals(held):
            yield f"{kept / name}: not what the artifacts give; delete {kept} and ask again"
