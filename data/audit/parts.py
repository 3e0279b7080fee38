"""Parts of the audit store: one folder of Parquet files per dataset or checkpoint, with a manifest of digests.

    artifacts/audit/datasets/<first 16 digits>/{manifest.json, samples.parquet, ...}
    artifacts/audit/checkpoints/<first 16 digits>/{manifest.json, ledger.parquet, ...}

A part appears whole or not at all and is never changed, so that earlier datasets and checkpoints stay answerable.
"""

import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data.audit.tables import Kind, Table, tables_of
from data.shards import ShardError, sha256_file, verify_file, write_atomic

if TYPE_CHECKING:
    from pyarrow import Schema

STORE_VERSION = 2
"""Raised when tables change, so that parts of an earlier form are made again."""
MANIFEST = "manifest.json"
ROWS_AT_A_TIME = 20_000
Row = Mapping[str, Any]


class AuditError(Exception):
    """Something that was asked for and is not in the store, or a store that cannot answer; says what to do."""


class PartFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    bytes: int
    sha256: str
    rows: int


class Manifest(BaseModel):
    """What a part is of, what it was read from, and what its files are."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    version: int
    kind: Kind
    sha256: str = Field(description="of the dataset's index.json, or of the checkpoint's weights file")
    sources: dict[str, str] = Field(description="sha256 of the artifacts that it was read from, by path")
    files: dict[str, PartFile]


def store_folder(workspace: Path) -> Path:
    return workspace / "artifacts" / "audit"


def part_folder(store: Path, kind: Kind, sha256: str) -> Path:
    return store / kind / sha256[:16]


def parts_of(store: Path, kind: Kind) -> list[Path]:
    """Folders of all parts, in the order of their names."""
    return sorted(path.parent for path in (store / kind).glob(f"*/{MANIFEST}"))


def read_manifest(folder: Path) -> Manifest:
    """AuditError if the part has none that can be read."""
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (OSError, ValidationError) as error:
        raise AuditError(
            f"{folder / MANIFEST}: not the manifest of a part of the audit store; delete {folder} and ask again, "
            "which makes the part anew if the workspace still holds what it is of"
        ) from error


def is_current(folder: Path, sources: Mapping[str, str]) -> bool:
    """Whether a part is there, of this form, and read from artifacts with these digests."""
    if not (folder / MANIFEST).exists():
        return False
    try:
        manifest = read_manifest(folder)
    except AuditError:
        return False
    return manifest.version == STORE_VERSION and manifest.sources == dict(sources)


class PartWriter:
    """Writes the tables of one part; rows may come in any number of portions."""

    def __init__(self, folder: Path, kind: Kind, sha256: str) -> None:
        self.folder, self.kind, self.sha256 = folder, kind, sha256
        self.rows: dict[str, int] = {}
        self._stack = ExitStack()
        self._open = {table.name: _TableFile(folder, table, sha256, self._stack) for table in tables_of(kind)}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def add(self, table: str, rows: Iterable[Row]) -> None:
        """ValueError for a row with a column that the table does not have, or with a value of another type."""
        self._open[table].add(rows)

    def finish(self, sources: Mapping[str, str]) -> Manifest:
        for file in self._open.values():
            file.flush()
        self._stack.close()
        files = {
            file.path.name: PartFile(bytes=file.path.stat().st_size, sha256=sha256_file(file.path), rows=file.rows)
            for file in self._open.values()
        }
        manifest = Manifest(
            version=STORE_VERSION, kind=self.kind, sha256=self.sha256, sources=dict(sources), files=files
        )
        write_atomic(self.folder / MANIFEST, manifest.model_dump_json(indent=1).encode() + b"\n")
        return manifest


class _TableFile:
    def __init__(self, folder: Path, table: Table, sha256: str, stack: ExitStack) -> None:
        from pyarrow import parquet

        self.table, self.path, self.rows = table, folder / f"{table.name}.parquet", 0
        self._sha256, self._held = sha256, []
        self._schema = _schema_of(table)
        self._writer = stack.enter_context(parquet.ParquetWriter(self.path, self._schema, compression="zstd"))

    def add(self, rows: Iterable[Row]) -> None:
        for row in rows:
            unknown = set(row) - set(self.table.columns)
            if unknown:
                raise ValueError(f"table {self.table.name} has no column {sorted(unknown)}")
            self._held.append(row)
            if len(self._held) >= ROWS_AT_A_TIME:
                self.flush()

    def flush(self) -> None:
        import pyarrow as pa

        if not self._held:
            return
        columns = {name: [row.get(name) for row in self._held] for name in self.table.columns}
        columns = {self.table.key: [self._sha256] * len(self._held), **columns}
        try:
            rows = pa.table(columns, schema=self._schema)
        except (pa.ArrowException, OverflowError) as error:
            raise ValueError(f"table {self.table.name}: {error}") from error
        self._writer.write_table(rows)
        self.rows += len(self._held)
        self._held = []


def _schema_of(table: Table) -> "Schema":
    import pyarrow as pa

    types = {"text": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
    return pa.schema([(name, types[column.type]) for name, column in table.typed.items()])


@contextmanager
def building(store: Path, kind: Kind, sha256: str) -> Iterator[PartWriter]:
    """A part under a temporary name, in its place once the block ends well; one that was there gives way."""
    folder = part_folder(store, kind, sha256)
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    temporary.mkdir(parents=True)
    try:
        with PartWriter(temporary, kind, sha256) as writer:
            yield writer
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_part(folder: Path) -> list[str]:
    """Files of a part that are not those of its manifest, or hold no table of the store."""
    try:
        manifest = read_manifest(folder)
    except AuditError as error:
        return [str(error)]
    problems = []
    if folder != part_folder(folder.parents[1], manifest.kind, manifest.sha256):
        problems.append(f"{folder}: its manifest is of {manifest.kind[:-1]} {manifest.sha256}")
    tables = {f"{table.name}.parquet": table for table in tables_of(manifest.kind)}
    for name, entry in manifest.files.items():
        if name not in tables:
            problems.append(f"{folder / MANIFEST}: names {name!r}, which is no table of the audit store")
            continue
        try:
            verify_file(folder / name, entry.bytes, entry.sha256)
            _verify_form(folder / name, tables[name], entry.rows)
        except (ShardError, OSError) as error:
            problems.append(str(error))
    for path in sorted(folder.iterdir()):
        if path.name not in {MANIFEST, *tables}:
            problems.append(f"{path}: in the folder, but no table of the audit store")
    missing = sorted(set(tables) - set(manifest.files))
    return problems + [f"{folder / name}: its manifest does not name it" for name in missing]


def _verify_form(path: Path, table: Table, rows: int) -> None:
    """Raise ShardError unless a file is Parquet with the columns of the table and so many rows."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        found = parquet.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise ShardError(f"{path}: not a Parquet file ({error})") from error
    with found:
        if not found.schema_arrow.equals(_schema_of(table)):
            raise ShardError(
                f"{path}: columns {found.schema_arrow.names}, the table {table.name} has {list(table.typed)} with the "
                "types that syncd audit sql --tables names"
            )
        if found.metadata.num_rows != rows:
            raise ShardError(f"{path}: {found.metadata.num_rows} rows, its manifest says {rows}")
