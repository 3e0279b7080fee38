"""SQL of auditors: it reads the tables, and nothing else on the machine."""

from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from data.audit.parts import AuditError, building
from data.audit.query import Store
from data.audit.tables import TABLES, handbook

SHA256 = "a" * 64


@pytest.fixture
def store(tmp_path: Path) -> Store:
    with building(tmp_path / "audit", "datasets", SHA256) as part:
        part.add("samples", [{"sample_id": f"mug-s0-{index}", "prompt": "it's a mug"} for index in range(3)])
        part.finish({})
    return Store(tmp_path / "audit")


def test_every_documented_table_and_column_can_be_asked(store: Store) -> None:
    for table in TABLES:
        names, rows = store.ask(f"SELECT * FROM {table.name}")
        assert names == list(table.typed)
        assert len(rows) == (3 if table.name == "samples" else 0)
    assert all(f"  {name} " in handbook() for table in TABLES for name in table.columns)


def test_answers_are_those_of_sql(store: Store) -> None:
    assert store.ask("WITH s AS (FROM samples) SELECT count(*) AS n, max(sample_id) FROM s") == (
        ["n", "max(sample_id)"],
        [(3, "mug-s0-2")],
    )


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM read_blob('/proc/self/environ')",
        "SELECT * FROM read_parquet('https://example.com/x.parquet')",
        "SELECT * FROM (SELECT * FROM query('SELECT * FROM read_text(''/etc/passwd'')'))",
        "COPY samples TO '{here}/stolen.csv'",
        "COPY (SELECT 1) TO '{here}/audit/datasets/aaaaaaaaaaaaaaaa/samples.parquet'",
        "ATTACH '{here}/other.db'",
        "SET enable_external_access = true",
        "SET allowed_directories = ['/']",
        "INSTALL httpfs",
        "LOAD httpfs",
        "DROP VIEW samples",
        "CREATE TABLE mine AS SELECT 1",
        "SELECT 1; SELECT 2",
        "SELECT * FROM held",
        "",
        "SELECT nothing FROM samples",
    ],
)
def test_a_query_reads_no_other_file_and_changes_nothing(store: Store, tmp_path: Path, query: str) -> None:
    held = store.rows  # noqa: F841 - a variable of Python is no table
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(AuditError, match="audit sql"):
        store.ask(query.replace("{here}", str(tmp_path)))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert store.ask("SELECT count(*) FROM samples")[1] == [(3,)]


def test_a_table_with_other_columns_is_an_error_that_says_what_to_do(tmp_path: Path, store: Store) -> None:
    (file,) = (tmp_path / "audit").glob("*/*/samples.parquet")
    parquet.write_table(pa.table({"a": [1]}), file)
    opened = Store(tmp_path / "audit")
    with pytest.raises(AuditError, match=r"(?s)audit store: cannot be read .*; syncd audit verify names the part"):
        opened.rows("SELECT sample_id FROM samples")
    with pytest.raises(AuditError, match="audit store: cannot be read"):
        opened.table("asked", "SELECT sample_id FROM samples", {})
    with pytest.raises(AuditError, match="0 rows, there must be one"):
        opened.row("SELECT * FROM datasets")


def test_a_shortened_digest_must_name_one_thing(store: Store, tmp_path: Path) -> None:
    assert store.resolve("datasets", "aaa") == SHA256 and store.resolve("datasets", "b") is None
    with building(tmp_path / "audit", "datasets", "ab" * 32) as part:
        part.finish({})
    with pytest.raises(AuditError, match="a begins 2 datasets"):
        Store(tmp_path / "audit").resolve("datasets", "a")
