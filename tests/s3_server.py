"""moto's S3 over real HTTP on 127.0.0.1, with latency and faults on request.

Requests are let through one at a time where they write, since moto looks and then writes, which S3 does in one step.
"""

import os
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

Request = tuple[str, str]
"""Method and path."""
Fault = Callable[[Request], tuple[str, bytes] | None]
"""Status line and body to answer with in place of S3, or None to let the request through."""
SLOW_DOWN = (
    "503 Slow Down",
    b"<?xml version='1.0'?><Error><Code>ServiceUnavailable</Code><Message>Please reduce your rate</Message></Error>",
)


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *arguments: Any) -> None:
        pass


class S3Server:
    """One bucket of its own; `requests` is what came in."""

    def __init__(self, latency: float = 0.0) -> None:
        self.latency, self.fault = latency, None
        self.requests: list[Request] = []
        self._app = DomainDispatcherApplication(create_backend_app)
        self._writing = threading.Lock()
        self._server = make_server("127.0.0.1", 0, self, threaded=True, request_handler=_Quiet)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self.fault: Fault | None

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        request = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.requests.append(request)
        if self.latency:
            time.sleep(self.latency)
        answer = self.fault(request) if self.fault else None
        if answer is not None:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            status, body = answer
            start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
            return [body]
        if request[0] in ("GET", "HEAD"):
            return self._app(environ, start_response)
        with self._writing:
            return self._app(environ, start_response)

    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.address,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def make_bucket(self) -> str:
        """URL of a new bucket."""
        name = f"bucket-{uuid.uuid4().hex[:12]}"
        urllib.request.urlopen(urllib.request.Request(f"{self.address}/{name}", method="PUT")).close()
        return f"s3://{name}"


@contextmanager
def s3_server(latency: float = 0.0) -> Iterator[S3Server]:
    server = S3Server(latency)
    thread = threading.Thread(target=server._server.serve_forever, daemon=True)
    thread.start()
    before = dict(os.environ)
    os.environ.update(server.environment())
    try:
        yield server
    finally:
        os.environ.clear()
        os.environ.update(before)
        server._server.shutdown()
        server._server.server_close()
        thread.join()
