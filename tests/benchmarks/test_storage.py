"""The benchmark of reading from S3: its rows, and that other samples are other digests."""

from pathlib import Path

import pytest

from benchmarks.storage import read_once, rows, write_dataset


def test_a_row_for_the_disk_and_one_for_every_number_of_shards_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "")
    write_dataset(tmp_path / "shard", 3, 2, 1000)
    table = rows(tmp_path / "shard", [1.0], [0.0], 1)
    assert [row[:3] for row in table] == [["disk", "-", "-"], *(["S3", "1", str(ahead)] for ahead in (0, 1, 4, 8))]
    assert all(float(row[3]) > 0 for row in table)
    write_dataset(tmp_path / "other", 3, 2, 999)
    assert read_once(tmp_path / "other", 0, 0.0)[1] != read_once(tmp_path / "shard", 0, 0.0)[1]
