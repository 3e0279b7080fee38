import json
import os
import time
from pathlib import Path

import pytest

from models.training.processes import failure
from models.training.worker import _end_with


def leave(folder: Path, rank: int, when: float, kind: str, message: str, expected: bool = False) -> None:
    told = {"time": when, "rank": rank, "kind": kind, "message": message, "expected": expected, "log": f"{rank}.log"}
    (folder / f"{rank}.json").write_text(json.dumps(told))


def test_a_message_for_the_user_is_what_is_said(tmp_path: Path) -> None:
    leave(tmp_path, 0, 1.0, "RuntimeError", "Connection reset by peer")
    leave(tmp_path, 1, 2.0, "TrainingError", "step 3: loss is nan, at the samples mug-1", expected=True)
    error = failure([1, 1], tmp_path)
    assert str(error) == "step 3: loss is nan, at the samples mug-1" and not error.transient


def test_a_killed_process_is_the_cause_of_what_the_others_say(tmp_path: Path) -> None:
    leave(tmp_path, 0, 1.0, "RuntimeError", "Connection reset by peer")
    error = failure([1, -9], tmp_path)
    assert str(error).startswith(f"process 1 of the training died: SIGKILL; see {tmp_path / '1.log'}, and run the same")


def test_the_first_of_several_errors_is_named_and_a_lack_of_memory_tried_again(tmp_path: Path) -> None:
    leave(tmp_path, 0, 2.0, "RuntimeError", "Connection reset by peer")
    leave(tmp_path, 2, 1.0, "OutOfMemoryError", "CUDA out of memory")
    error = failure([1, None, 1], tmp_path)
    assert str(error) == "process 2 of the training: OutOfMemoryError: CUDA out of memory; see 2.log"
    assert error.transient


def test_a_process_that_said_nothing_is_named_with_its_exit_code(tmp_path: Path) -> None:
    assert "process 1 of the training died: exit code 3; see" in str(failure([None, 3], tmp_path))


def test_a_worker_ends_with_its_parent() -> None:
    end, held = os.pipe()
    parent = os.fork()
    if parent == 0:
        here = os.getpid()
        if os.fork() == 0:
            _end_with(here)
        os._exit(0)
    os.close(held)
    os.waitpid(parent, 0)
    os.set_blocking(end, False)
    for _ in range(100):
        try:
            assert os.read(end, 1) == b"", "the worker has ended, and with it the last holder of the pipe"
            break
        except BlockingIOError:
            time.sleep(0.05)
    else:
        pytest.fail("the worker outlives its parent")
    os.close(end)
