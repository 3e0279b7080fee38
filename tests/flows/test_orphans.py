"""A driver that is killed alone, as by the kernel for lack of memory, leaves no process that goes on writing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from fake_workspace import subprocess_environment

from flows import orphans
from flows.orphans import DRIVER_VARIABLE, driver_name, end_with_driver

CHILD = """
import sys, time
from pathlib import Path
from flows import orphans
orphans.SECONDS_BETWEEN_LOOKS = 0.05
orphans.end_with_driver()
Path(sys.argv[1]).touch()
time.sleep(60)
"""
DRIVER = """
import os, subprocess, sys
from flows.orphans import DRIVER_VARIABLE, driver_name
environment = os.environ | {DRIVER_VARIABLE: driver_name()}
middle = "import subprocess, sys; subprocess.run(sys.argv[1:])"
subprocess.run([sys.executable, "-c", middle, sys.executable, "-c", *sys.argv[1:]], env=environment)
"""


def test_a_grandchild_ends_soon_after_a_driver_that_was_killed_alone(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, CHILD, str(ready)], env=subprocess_environment())
    deadline = time.monotonic() + 60
    while not ready.exists():
        assert driver.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    family = psutil.Process(driver.pid).children(recursive=True)
    assert len(family) == 2
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == []


def test_a_process_that_merely_got_the_driver_s_id_is_not_the_driver() -> None:
    pid, _, created = driver_name().partition(" ")
    assert orphans._runs(f"{pid} {created}")
    assert not orphans._runs(f"{pid} {float(created) - 100!r}")


def test_a_driver_that_nobody_waited_for_is_gone() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        name = f"{process.pid} {psutil.Process(process.pid).create_time()!r}"
        assert orphans._runs(name)
        process.kill()
        while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        assert not orphans._runs(name)
    assert not orphans._runs(name)


def test_without_a_driver_in_the_environment_nothing_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    monkeypatch.delenv(DRIVER_VARIABLE, raising=False)
    before = threading.active_count()
    end_with_driver()
    assert threading.active_count() == before
