"""The benchmark of runners makes the shards that it counts."""

from pathlib import Path

from benchmarks.runners import measure
from data.shards import load_receipt


def test_every_shard_is_made_and_timed(tmp_path: Path) -> None:
    took = measure("serial", tmp_path, shards=3, workers=1)
    assert set(took) == {"first", "rest", "end"} and min(took.values()) >= 0
    (folder,) = (tmp_path / "artifacts" / ".work" / "runners").iterdir()
    assert [load_receipt(folder, index, "0" * 64).keys for index in range(3)] == [
        [f"key-{index:06d}"] for index in range(3)
    ]
