"""The throughput table says what the receipts say."""

import os

import pytest

from benchmarks.stages import measure, table
from data.shards import ShardEntry, ShardError, ShardIndex, ShardWriter

SIGNATURE = "ab" * 32


def finished(workspace, stage, runs, summary):
    """A stage whose shard i ran as runs[i] (start second, seconds, peak MB) says."""
    work, out = workspace / "artifacts" / ".work" / stage / SIGNATURE[:16], workspace / "artifacts" / stage
    out.mkdir(parents=True)
    entries = []
    for number, (start, seconds, peak) in enumerate(runs):
        with ShardWriter(work, stage, SIGNATURE, number) as writer:
            writer.add(f"cup-{number}", {})
            receipt = writer.finish(
                {"started": f"2026-01-01T00:00:{start:02d}+00:00", "seconds": seconds, "peak_mb": peak}
            )
        os.link(work / receipt.name, out / receipt.name)
        entries.append(ShardEntry(name=receipt.name, bytes=receipt.bytes, sha256=receipt.sha256, keys=receipt.keys))
    index = ShardIndex(stage=stage, signature=SIGNATURE, shards=entries, failed=[], summary=summary)
    (out / "index.json").write_text(index.model_dump_json())
    return work


def test_rates_are_over_busy_time_and_over_the_time_that_passed(tmp_path):
    finished(tmp_path, "score", [(0, 4.0, 300), (0, 6.0, 500), (6, 2.0, 400)], {"images": 24})
    row = measure(tmp_path, "score")
    assert (row.shards, row.unit, row.count, row.busy_s, row.wall_s) == (3, "images", 24, 12.0, 8.0)
    assert (row.median_shard_s, row.peak_mb) == (4.0, 500)
    cells = [cell.strip() for cell in table([row]).splitlines()[2].strip("|").split("|")]
    assert cells[:9] == ["score", "3", "24", "images", "0", "2", "3", "4.00", "8.0"]


def test_a_stage_without_its_unit_in_the_summary_is_counted_in_keys(tmp_path):
    finished(tmp_path, "score", [(0, 1.0, 100)], {})
    row = measure(tmp_path, "score")
    assert (row.unit, row.count) == ("keys", 1)


def test_a_stage_that_has_not_finished_has_no_row(tmp_path):
    assert measure(tmp_path, "score") is None


def test_lost_receipts_are_an_error(tmp_path):
    work = finished(tmp_path, "score", [(0, 1.0, 100), (1, 1.0, 100)], {})
    (work / "000001.json").unlink()
    with pytest.raises(ShardError, match=r"no receipt of shards \[1\]"):
        measure(tmp_path, "score")
