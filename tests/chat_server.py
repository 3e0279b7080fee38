"""A small server of OpenAI's chat protocol that misbehaves on demand."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

GOOD = "1. A red mug on a beach.\n2. A red mug in a forest."


class Server(ThreadingHTTPServer):
    """Takes the next of `script` for every request, and `GOOD` when it is used up. `slow`: seconds of a `timeout`."""

    daemon_threads = True

    def __init__(self, script: list[str], slow: float) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.slow = list(script), slow
        self.requests: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.busy, self.busiest = 0, 0
        self.counted = Counter[str]()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self._send(
            200, {"object": "list", "data": [{"id": "small", "object": "model", "created": 0, "owned_by": "me"}]}
        )

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.server.requests.append(body)
            self.server.keys.add(self.headers["authorization"])
            self.server.busy += 1
            self.server.busiest = max(self.server.busiest, self.server.busy)
            act = self.server.script.pop(0) if self.server.script else "good"
            self.server.counted[act] += 1
        time.sleep(0.005)
        with self.server.lock:  # before the answer, at which the client may already send its next request
            self.server.busy -= 1
        self._act(act)

    def _act(self, act: str) -> None:
        if act.isdecimal():
            self._send(int(act), {"error": {"message": f"this is error {act}"}})
        elif act == "timeout":
            time.sleep(self.server.slow)
        elif act == "cut":
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", "1000")
            self.end_headers()
            self.wfile.write(b'{"choices": [')
        elif act == "html":
            self._send(200, b"<html>Sign in</html>")
        elif act == "empty":
            self._send(200, {"choices": []})
        elif act == "truncated":
            self._complete(GOOD[:-6], "length")
        elif act == "chatty":
            self._complete(f"Sure! Here are the captions:\n{GOOD}\nLet me know if you need more mugs!")
        elif act == "filtered":
            self._complete("", "content_filter")
        elif act == "pondered":
            self._complete(None, "length")
        elif act == "silent":
            self._complete(None)
        else:
            self._complete(GOOD)

    def _complete(self, text: str | None, reason: str = "stop") -> None:
        choice = {"index": 0, "finish_reason": reason, "message": {"role": "assistant", "content": text}}
        self._send(
            200, {"id": "1", "object": "chat.completion", "created": 0, "model": "small-v7", "choices": [choice]}
        )

    def _send(self, status: int, content: Any) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "text/html" if isinstance(content, bytes) else "application/json")
        self.send_header("content-length", str(len(data)))
        self.send_header("retry-after-ms", "10")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving(*script: str, slow: float = 1.0) -> Iterator[Server]:
    server = Server(list(script), slow)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
