"""Half files of a DVC that was killed: never an end to all later commands."""

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from flows import dvc_files
from flows.dvc_files import KEPT, LOCK_FILE, WHO, is_whole, keep, mend

STAGE = {
    "cmd": "python -m flows.stage prompts",
    "deps": [{"path": "artifacts/assets/index.json", "hash": "md5", "md5": "0123456789abcdef", "size": 812}],
    "params": {
        "configs/recipe.yaml": {"prompts": {"kinds": ["plain", "scene"], "max_words": 40, "folder": None}, "seed": 0},
        "configs/versions.yaml": {"prompts": 3},
    },
    "outs": [{"path": "artifacts/prompts", "hash": "md5", "md5": "fedcba9876543210.dir", "size": 42381, "nfiles": 8}],
}


@pytest.fixture
def text(tmp_path: Path) -> str:
    """As DVC writes it."""
    from dvc.utils.serialize import dump_yaml

    dump_yaml(tmp_path / "written", {"schema": "2.0", "stages": {"assets": {"cmd": "a"}, "prompts": STAGE}})
    return (tmp_path / "written").read_text()


@pytest.mark.parametrize("end", ["schema:", "stages:\n", "cmd: pyth", "md5: 0", "recipe.yaml:\n", "size: 8", "outs:\n"])
def test_half_a_lock_file_is_known_where_dvc_would_not_read_it(text: str, end: str) -> None:
    """Half a command and half a number can be read; what they say is not so, and the stage runs again."""
    assert is_whole(text)
    assert is_whole(text[: text.index(end) + len(end)]) == (end in ("cmd: pyth", "size: 8"))


def test_half_a_lock_file_is_as_the_stage_before_left_it(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = tmp_path / LOCK_FILE
    lock.write_text(text[:100])
    mend(tmp_path)
    assert not lock.exists() and f"{lock}: half written by a DVC that was killed; deleted" in capsys.readouterr().err
    lock.write_text(text)
    keep(tmp_path)
    mend(tmp_path)
    assert capsys.readouterr().err == ""
    lock.write_text("")
    mend(tmp_path)
    assert lock.read_text() == text == (tmp_path / KEPT).read_text()
    assert "as before that" in capsys.readouterr().err


def written(folder: Path, text: str) -> Path:
    who = folder / WHO
    who.parent.mkdir(parents=True, exist_ok=True)
    who.write_text(text)
    return who


def naming(pid: int) -> str:
    reader = {"pid": pid, "cmd": "flows/reproduce.py assets"}
    return json.dumps({"write": {"artifacts/assets": reader}, "read": {"artifacts/x": [reader]}})


@pytest.mark.parametrize("half", ["", '{"write": {', "\0" * 8])
def test_half_a_list_of_processes_is_deleted_unless_dvc_is_writing_it(tmp_path: Path, half: str) -> None:
    who = written(tmp_path, half)
    with who.with_name("rwlock.lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        mend(tmp_path)
        assert who.exists()
    mend(tmp_path)
    assert not who.exists()


def test_a_list_that_names_a_live_process_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dvc_files, "SECONDS_TO_END", 0.2)
    for text in (naming(os.getpid()), '{"write": {}, "read": {}}'):
        who = written(tmp_path, text)
        mend(tmp_path)
        assert who.read_text() == text


def test_a_process_that_nobody_waits_for_and_another_one_of_its_id_do_not_count(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    while psutil.Process(ended.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.05)
    who = written(tmp_path, naming(ended.pid))
    mend(tmp_path)
    assert not who.exists()
    ended.wait()
    who = written(tmp_path, naming(os.getpid()))
    os.utime(who, (1.0, 1.0))
    mend(tmp_path)
    assert not who.exists(), "this process began later"


def test_a_process_that_is_about_to_end_is_waited_for(tmp_path: Path) -> None:
    ending = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1)"])
    who = written(tmp_path, naming(ending.pid))
    mend(tmp_path)
    assert not who.exists() and ending.poll() == 0
