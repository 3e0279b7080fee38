"""Whether the audit store agrees with itself, with its statements, and with the artifacts it was read from."""

import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from data.audit.parts import AuditError, Manifest, check_part, parts_of, read_manifest, store_folder
from data.audit.query import Store
from data.audit.tables import Kind, tables_of
from flows.audit.store import dataset_here, update_into
from models.header import FILE_NAME
from tasks.auditing.chain import ChainError, Link, check_chain, link_of, sources_of
from tasks.auditing.checkpoint import LEDGER
from tasks.auditing.ledger import ledger_digest

KINDS: tuple[Kind, ...] = ("datasets", "checkpoints")
STATEMENTS: dict[Kind, str] = {"datasets": "statements", "checkpoints": "training_statements"}


def check_store(workspace: Path, deep: bool) -> list[str]:
    """Problems of the store, each naming its part.

    Files against their manifest; the manifest against the statements in the part; these against each other; what the
    tables say of shards and weights against the statements; every ledger, by writing its file again and taking its
    digest. So earlier versions are checked too, whose artifacts are gone. `deep`: also the tables of the dataset and
    the checkpoint that the workspace holds, by reading them from the artifacts once more.
    """
    listed, sound = [], []
    for folder in _parts(workspace):
        problems = check_part(folder) or list(_check_content(store_folder(workspace), folder))
        listed += problems
        sound += [] if problems else [folder]
    return listed + (list(_check_tables(workspace, sound)) if deep else [])


def has_parts(workspace: Path) -> bool:
    return bool(_parts(workspace))


def _parts(workspace: Path) -> list[Path]:
    return [folder for kind in KINDS for folder in parts_of(store_folder(workspace), kind)]


def earlier_datasets(workspace: Path) -> list[str]:
    """Digests of the datasets in the store that the workspace does not hold any more."""
    here, found = dataset_here(workspace), []
    for folder in parts_of(store_folder(workspace), "datasets"):
        try:
            found.append(read_manifest(folder).sha256)
        except AuditError:
            continue  # a problem that check_store names
    return [sha256 for sha256 in found if sha256 != here]


def _check_content(store: Path, folder: Path) -> Iterator[str]:
    """Of a part whose files are those of its manifest. It is opened alone, so that what is wrong is wrong in it."""
    try:
        opened = Store(store, only=[folder])
        ((_, manifest),) = opened.parts
        yield from _check_keys(opened, folder, manifest)
        yield from _check_statements(opened, folder, manifest)
    except AuditError as error:
        yield f"{folder}: cannot be checked any further: {error}"


def _check_keys(opened: Store, folder: Path, manifest: Manifest) -> Iterator[str]:
    """A part speaks of its own dataset or checkpoint, once, since a view joins the rows of all parts."""
    for table in tables_of(manifest.kind):
        file = folder / f"{table.name}.parquet"
        query = f"SELECT count(*) AS rows FROM {table.name} WHERE {table.key} IS DISTINCT FROM ?"
        others = opened.row(query, [manifest.sha256])["rows"]
        if others:
            yield f"{file}: {others} rows are not of {manifest.kind[:-1]} {manifest.sha256}"
        rows = manifest.files[file.name].rows
        if table.name == manifest.kind and rows != 1:
            yield f"{file}: {rows} rows, there must be one"


def _check_statements(opened: Store, folder: Path, manifest: Manifest) -> Iterator[str]:
    kind, file = manifest.kind, folder / f"{STATEMENTS[manifest.kind]}.parquet"
    rows = opened.rows(f"SELECT stage, statement, body FROM {STATEMENTS[kind]}")
    try:
        links = [link_of(str(row["stage"]), (row["body"] or "").encode()) for row in rows]
    except ChainError as error:
        yield f"{file}: {error}"
        return
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
    yield from check(opened, folder, manifest.sha256, links[-1])


def _check_dataset(opened: Store, folder: Path, sha256: str, shard: Link) -> Iterator[str]:
    if shard.index_sha256 != sha256:
        yield f"{folder}: is of dataset {sha256}, its statement of {shard.index_sha256}"
    for row in opened.rows("SELECT DISTINCT shard, shard_sha256 FROM sets WHERE fate = 'published'"):
        if shard.subjects.get(f"artifacts/shard/{row['shard']}") != row["shard_sha256"]:
            yield f"{folder}: sets of shard {row['shard']} {row['shard_sha256']}, which its statement does not name"


def _check_checkpoint(opened: Store, folder: Path, sha256: str, train: Link) -> Iterator[str]:
    ledger = opened.row("SELECT ledger_sha256 FROM checkpoints")["ledger_sha256"]
    for name, said in ((FILE_NAME, sha256), (LEDGER, ledger)):
        stated = train.subjects.get(f"artifacts/train/{name}")
        if stated != said:
            yield f"{folder}: {name} is {said}, its statement names {stated}"
    try:
        found = ledger_digest(folder / "ledger.parquet")
    except (ValueError, OSError) as error:
        found = f"that is none ({error})"
    if found != ledger:
        yield f"{folder}: its ledger gives a file {found}, the one of the training is {ledger}"


def _check_tables(workspace: Path, sound: Collection[Path]) -> Iterator[str]:
    """The parts that the workspace can make again, table by table; one that the store lacks was told of before."""
    kept = {(manifest.kind, manifest.sha256): folder for folder in sound for manifest in [read_manifest(folder)]}
    with tempfile.TemporaryDirectory(prefix="syncd-audit-") as scratch:
        fresh = store_folder(Path(scratch))
        update_into(workspace, fresh)
        for folder, manifest in Store(fresh).parts:
            if (manifest.kind, manifest.sha256) in kept:
                yield from _compare(folder, kept[manifest.kind, manifest.sha256], manifest.kind)


def _compare(fresh: Path, kept: Path, kind: Kind) -> Iterator[str]:
    from pyarrow import parquet

    for table in tables_of(kind):
        name = f"{table.name}.parquet"
        if read_manifest(fresh).files[name] == read_manifest(kept).files[name]:
            continue
        again, held = (parquet.read_table(folder / name) for folder in (fresh, kept))
        if not again.equals(held):
            yield f"{kept / name}: not what the artifacts give; delete {kept} and ask again"
