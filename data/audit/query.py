"""Questions to the audit store: DuckDB in memory, with one view per table over the Parquet files of all parts."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.audit.parts import AuditError, Manifest, parts_of, read_manifest
from data.audit.tables import SQL_TYPES, TABLES

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

LOCKS = (
    "SET temp_directory = ''",
    "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false",
    "SET allow_community_extensions = false",
    "SET python_enable_replacements = false",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)
"""Nothing but the files in `allowed_paths` can be opened from here on, and no query can change that."""


class Store:
    """The parts of one or several stores, opened for reading."""

    def __init__(self, *folders: Path, only: Collection[Path] | None = None) -> None:
        """`only`: parts to open; None for all. AuditError for a part that cannot be read."""
        found: dict[str, tuple[Path, Manifest]] = {}
        for folder in folders:
            for kind in ("datasets", "checkpoints"):
                for part in parts_of(folder, kind):
                    if only is not None and part not in only:
                        continue
                    manifest = read_manifest(part)
                    found.setdefault(f"{kind}/{manifest.sha256}", (part, manifest))
        self.parts = list(found.values())
        self._connection = _connect(self.parts)

    def rows(self, query: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> list[dict[str, Any]]:
        """Rows as dictionaries, of a query of this project's own. AuditError if a table is not what it should be."""
        with _own_query():
            cursor = self._connection.execute(query, parameters)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def row(self, query: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> dict[str, Any]:
        """The one row that there must be; AuditError if there is none, or another."""
        found = self.rows(query, parameters)
        if len(found) != 1:
            raise AuditError(f"audit store: {len(found)} rows, there must be one; syncd audit verify names the part")
        return found[0]

    def table(self, name: str, query: str, parameters: dict[str, Any]) -> None:
        """Keep the rows of a query of this project's own in memory, for the queries that follow."""
        with _own_query():
            self._connection.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS {query}", parameters)

    def ask(self, query: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Names and rows of one SELECT that somebody wrote. AuditError if it is none, or if DuckDB refuses it."""
        import duckdb

        try:
            statements = duckdb.extract_statements(query)
            kinds = [statement.type for statement in statements]
            if kinds != [duckdb.StatementType.SELECT]:
                said = ", ".join(kind.name for kind in kinds) or "nothing"
                raise AuditError(f"audit sql takes one SELECT, this is {said}; the tables: syncd audit sql --tables")
            cursor = self._connection.execute(query)
            return [column[0] for column in cursor.description], cursor.fetchall()
        except duckdb.Error as error:
            raise AuditError(f"audit sql: {error}") from error

    def resolve(self, kind: str, prefix: str) -> str | None:
        """The whole digest of the one dataset or checkpoint that begins so; None if there is none.

        AuditError if there are several.
        """
        found = sorted(m.sha256 for _, m in self.parts if m.kind == kind and m.sha256.startswith(prefix))
        if len(found) > 1:
            raise AuditError(f"{prefix} begins {len(found)} {kind}: {', '.join(found)}; give more digits")
        return found[0] if found else None

    def manifest(self, kind: str, sha256: str) -> Manifest:
        return next(manifest for _, manifest in self.parts if (manifest.kind, manifest.sha256) == (kind, sha256))


@contextmanager
def _own_query() -> Iterator[None]:
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        raise AuditError(f"audit store: cannot be read ({error}); syncd audit verify names the part") from error


def _connect(parts: Sequence[tuple[Path, Manifest]]) -> "DuckDBPyConnection":
    import duckdb

    connection = duckdb.connect(":memory:")
    allowed: list[str] = []
    for table in TABLES:
        files = [str(part / f"{table.name}.parquet") for part, manifest in parts if manifest.kind == table.kind]
        allowed += files
        if files:
            body = f"SELECT * FROM read_parquet([{', '.join(map(_quoted, files))}])"
        else:
            columns = ", ".join(
                f'CAST(NULL AS {SQL_TYPES[column.type]}) AS "{name}"' for name, column in table.typed.items()
            )
            body = f"SELECT {columns} WHERE false"
        try:
            connection.execute(f"CREATE VIEW {table.name} AS {body}")
        except duckdb.Error as error:
            raise AuditError(
                f"audit store: {table.name} cannot be read ({error}); syncd audit verify names the part"
            ) from error
    connection.execute(f"SET allowed_paths = [{', '.join(map(_quoted, allowed))}]")
    for statement in LOCKS:
        connection.execute(statement)
    return connection


def _quoted(text: str) -> str:
    escaped = text.replace("'", "''")
    return f"'{escaped}'"
