"""The lock of a shard: one holder, gone with its process, and never in the way."""

import errno
import fcntl
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from flows.exclusive import sole_maker

HOLD = """
import sys, time
from pathlib import Path
from flows.exclusive import sole_maker
with sole_maker(Path(sys.argv[1]), "render", 7):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_second_waits_until_the_process_of_the_first_has_died(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE) as first:
        assert first.stdout is not None and first.stdout.readline() == b"held\n"
        entered = threading.Event()

        def second() -> None:
            with sole_maker(tmp_path, "render", 7):
                entered.set()

        waiting = threading.Thread(target=second)
        waiting.start()
        assert not entered.wait(0.3)
        with sole_maker(tmp_path, "render", 8):
            pass
        first.send_signal(signal.SIGKILL)
        waiting.join(timeout=10)
    assert entered.is_set()
    assert "render: shard 7: another process makes it" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_maker_that_fails_leaves_the_lock_for_those_who_wait(tmp_path: Path) -> None:
    with pytest.raises(ValueError), sole_maker(tmp_path, "render", 7):
        raise ValueError
    assert [path.name for path in tmp_path.iterdir()] == [".000007.lock"]


def test_a_file_system_without_locks_is_no_reason_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(number: int) -> object:
        def flock(stream: object, how: int) -> None:
            raise OSError(number, "")

        return flock

    monkeypatch.setattr(fcntl, "flock", refuse(errno.ENOLCK))
    with sole_maker(tmp_path, "render", 7):
        pass
    monkeypatch.setattr(fcntl, "flock", refuse(errno.EIO))
    with pytest.raises(OSError), sole_maker(tmp_path, "render", 7):
        pass
