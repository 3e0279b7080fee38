"""Frames between the two sides: one letter for the kind, the length, the bytes."""

import json
import socket
import struct
import time
from typing import Any

_HEAD = struct.Struct("<cQ")
REQUEST, FILE, ASK, REFUSAL, RESULT, ERROR = b"Q", b"F", b"A", b"N", b"R", b"E"
"""REQUEST (the job) and FILE (the mesh) go in; ASK (for a file beside it), RESULT and ERROR come out; an ASK is
answered with FILE or REFUSAL."""
PARSE, KILL = b"\1", b"\0"
"""What a zygote is told: the first comes with the socket of a mesh."""
STATUS = struct.Struct("<i")
SMALL = 64 << 10
"""Bytes of a frame that holds a name or a reason."""


class WireError(Exception):
    """The other side says what it may not."""


class GoneError(WireError):
    """The other side has closed."""


def send(channel: socket.socket, kind: bytes, content: bytes) -> None:
    channel.sendall(_HEAD.pack(kind, len(content)))
    channel.sendall(content)


def receive(channel: socket.socket, allowed: dict[bytes, int], deadline: float | None = None) -> tuple[bytes, bytes]:
    """Kind and content of the next frame; `allowed` gives the longest of each kind, `deadline` is monotonic.

    WireError for anything else, GoneError at the end of the stream, TimeoutError beyond the deadline.
    """
    kind, length = _HEAD.unpack(_exactly(channel, _HEAD.size, deadline))
    if length > allowed.get(kind, -1):
        raise WireError(f"a frame {kind!r} of {length} bytes; allowed: {allowed}")
    return kind, bytes(_exactly(channel, length, deadline))


def _exactly(channel: socket.socket, length: int, deadline: float | None) -> bytearray:
    data = bytearray(length)
    view, filled = memoryview(data), 0
    while filled < length:
        if deadline is not None:
            channel.settimeout(max(0.001, deadline - time.monotonic()))
        got = channel.recv_into(view[filled:])
        if not got:
            raise GoneError("the other side is gone")
        filled += got
    view.release()
    return data


def send_header(channel: socket.socket, kind: bytes, **values: Any) -> None:
    """A small frame of JSON."""
    send(channel, kind, json.dumps(values).encode())
