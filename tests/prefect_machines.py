"""A Prefect server and a worker as processes of their own on this machine, and a webhook that keeps what it gets."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from fake_workspace import subprocess_environment

from flows.workspace import PROJECT, quiet_environment

PREFECT = [sys.executable, "-m", "prefect"]
LONGEST_SECONDS = 240.0
SECONDS_TO_END = 10.0


@contextmanager
def server(home: Path) -> Iterator[dict[str, str]]:
    """The environment in which Prefect's commands and flows find it."""
    port = free_port()
    environment = {
        **quiet_environment(home),
        **subprocess_environment(),
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "SYNCD_CHECKOUT": str(PROJECT),
        "OMP_NUM_THREADS": "1",
    }
    command = [*PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with running(command, environment, home / "server.log"):
        eventually(lambda: healthy(f"http://127.0.0.1:{port}/api/health"))
        yield environment


@contextmanager
def running(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process, ended by SIGTERM as a supervisor does it, and by SIGKILL if it waits for its clients to leave."""
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, cwd=PROJECT, env=environment, stdout=stream, stderr=stream, start_new_session=True
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def webhook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Its address, and the JSON that was posted to it."""
    posted: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}/hook", posted
        listening.shutdown()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def eventually(check: Callable[[], Any], seconds: float = LONGEST_SECONDS) -> Any:
    """What `check` gives as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.2)
    return found


def processes_of(folder: Path) -> list[int]:
    """Ids of the processes that work in a folder, but this one."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            inside = os.readlink(path / "cwd") == str(folder) and "zombie" not in (path / "status").read_text()
        except OSError:
            continue
        if inside and int(path.name) != os.getpid():
            found.append(int(path.name))
    return found
