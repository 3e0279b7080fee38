"""Progress on the console: counted from what is on disk, said in plain lines where there is no terminal."""

import logging
import time
from pathlib import Path

import pytest

from data.shards import ShardWriter
from flows import console
from flows.console import clock_text, keys_begun, result_text, stage_progress
from flows.engine import Progress, StageResult


def progress(folder: Path, done: int) -> Progress:
    return Progress("render", done // 10, 3, done, 30, failed=1, work_dir=folder)


def test_keys_in_an_unfinished_shard_count(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "render", "a" * 64, 0) as out:
        for number in range(6):
            out.add(f"key-{number}", {}, {"0.png": b"x" * 9000})
        out._stream.flush()
        assert 4 <= keys_begun(tmp_path, since=0.0) <= 6
        assert keys_begun(tmp_path, since=time.time() + 60) == 0
        out.finish()
    assert keys_begun(tmp_path, since=0.0) == 0


def test_lines_tell_count_failures_rate_and_the_last_word_of_the_stage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 0.0)
    with stage_progress("render") as show:
        show.update(progress(tmp_path, 10))
        logging.getLogger("tasks.render").info("render: half way")
        logging.getLogger("tasks.render").warning("one mesh is huge")
        time.sleep(0.01)
        show.update(progress(tmp_path, 20))
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0] == "render: 30 keys in 3 shards, 1 done before"
    assert "render: 20/30, 1 failed, " in printed.out and "(half way)" in printed.out and " left" in printed.out
    assert printed.err == "WARNING: one mesh is huge\n"


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3725, "1:02:05")])
def test_times_are_written_as_a_clock(seconds: float, text: str) -> None:
    assert clock_text(seconds) == text


def test_the_last_line_says_what_was_done_reused_and_failed() -> None:
    result = StageResult("render", "s", 4, 3, 9, {"corrupt": 1, "empty": 2}, 61.0)
    assert result_text(result) == "render: 9 done, 3 failed (1 corrupt, 2 empty) in 1:01, 3 of 4 shards reused"
