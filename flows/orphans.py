"""Processes of a run end with its driver, however that ends: one that is killed alone must leave nobody writing.

The driver (flows.regenerate) names itself in the environment of `dvc repro` and of the stage below it. Worker processes
watch the stage in the same way (flows.worker.start_worker).
"""

import os
import threading
import time

import psutil

DRIVER_VARIABLE = "SYNCD_DRIVER"
SECONDS_BETWEEN_LOOKS = 0.5


def driver_name() -> str:
    """This process, by a name that no later process with its id has."""
    return f"{os.getpid()} {psutil.Process().create_time()!r}"


def end_with_driver() -> None:
    """Watch the driver that the environment names, if one does, and end this process at once when it is gone."""
    name = os.environ.get(DRIVER_VARIABLE)
    if name:
        threading.Thread(target=_watch, args=(name,), daemon=True).start()


def _watch(name: str) -> None:
    while _runs(name):
        time.sleep(SECONDS_BETWEEN_LOOKS)
    os._exit(1)


def _runs(name: str) -> bool:
    pid, _, created = name.partition(" ")
    try:
        process = psutil.Process(int(pid))
        return repr(process.create_time()) == created and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
