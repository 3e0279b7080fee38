"""Crashes have a reason in one word, are counted where people look, and change nothing that is published."""

import errno
from pathlib import Path

import pytest
from fake_workspace import RUNTIME, bare_workspace, digests, make_trouble, no_trouble

from data.assets.base import AssetError
from data.meshes import MeshError
from data.opengl import RenderBackendError
from flows import engine
from flows.console import result_text
from flows.crashes import crash_reason, crashes_in, note_crash
from flows.engine import run_stage
from flows.runners import WorkerLostError, serial
from flows.status import status, status_table
from flows.worker import DiskFullError, StageError
from models.memory import MemoryLimitError


class OutOfMemoryError(RuntimeError):
    """As torch calls its own."""


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "PAUSE_SECONDS", 0.0)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "out_of_memory"),
        (OutOfMemoryError("CUDA out of memory"), "out_of_memory"),
        (MemoryLimitError("needs 80 GB"), "out_of_memory"),
        (RenderBackendError("eglInitialize", transient=True), "egl"),
        (TimeoutError("no answer"), "timeout"),
        (OSError(errno.ETIMEDOUT, "timed out"), "timeout"),
        (ConnectionResetError(), "network"),
        (MeshError("empty", "no faces"), "bad_asset"),
        (AssetError("corrupt", "no GLB"), "bad_asset"),
        (WorkerLostError("died"), "killed"),
        (OSError(errno.ENOSPC, "no space"), "disk_full"),
        (DiskFullError("full"), "disk_full"),
        (KeyError("x"), "unexpected"),
    ],
)
def test_the_reason_of_a_crash_is_one_word(error: Exception, reason: str) -> None:
    assert crash_reason(error) == reason
    wrapped = StageError("render: shard 3")
    wrapped.__cause__ = error
    assert crash_reason(wrapped) == reason


def test_crashes_are_counted_at_the_end_and_in_the_status_and_publish_nothing(tmp_path: Path) -> None:
    quiet = bare_workspace(tmp_path / "quiet")
    run_stage("assets", quiet, RUNTIME, serial, package="fake_tasks")
    folder = bare_workspace(tmp_path / "new")
    make_trouble(folder, crash={"index": 1, "error": "timeout", "times": 2})
    result = run_stage("assets", folder, RUNTIME, serial, package="fake_tasks")
    assert result.crashes == {"timeout": 2}
    assert result_text(result).endswith(", crashes on the way: 2 timeout")
    assert status(folder)[0].crashes == {"timeout": 2}
    header, row, *_ = status_table(status(folder))
    assert dict(zip(header, row, strict=True))["crashes"] == "2 timeout"
    assert digests(folder, "assets") == digests(quiet, "assets")


def test_a_crash_that_ended_the_stage_is_remembered_by_the_run_that_resumes(tmp_path: Path) -> None:
    folder = bare_workspace(tmp_path)
    make_trouble(folder, crash={"index": 2, "error": "bug"})
    with pytest.raises(StageError, match="a bug"):
        run_stage("assets", folder, RUNTIME, serial, package="fake_tasks")
    assert status(folder)[0].crashes == {"unexpected": 1}
    no_trouble(folder)
    assert run_stage("assets", folder, RUNTIME, serial, package="fake_tasks").crashes == {"unexpected": 1}


def test_a_line_that_was_cut_off_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "crashes.jsonl").write_bytes(b'{"reason":"egl"}\n{"reas')
    assert crashes_in(tmp_path) == {"egl": 1}
    assert crashes_in(tmp_path / "none") == {}
    note_crash(tmp_path, 1, TimeoutError("late"), retried=True)
    assert crashes_in(tmp_path) == {"egl": 1, "timeout": 1}
