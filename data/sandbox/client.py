"""Ask for a mesh to be parsed out of this process. What comes back is a shape, a GLB or a reason.

Each thread has a zygote of its own; it is started with the first mesh and ends with the thread.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data.assets.base import AssetError
from data.assets.side_files import SideFiles
from data.meshes import MAX_FACES, MeshError
from data.sandbox import wire
from data.sandbox.confinement import LIMITS, Confinement, Limits
from data.sandbox.shapes import ShapeError, unpack
from data.sandbox.wire import KILL, PARSE, STATUS
from data.surfaces import Shape

_START_S = 300.0
_KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "LANG", "TMPDIR")
_REASON = re.compile(r"[a-z_]{1,40}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class SandboxError(Exception):
    """Meshes cannot be parsed at all just now; the message says what the process wrote before it died."""

    transient = True


class RefusedError(Exception):
    """The mesh was not parsed."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def read_shape(data: bytes, file_type: str, max_faces: int = MAX_FACES, limits: Limits = LIMITS) -> Shape:
    """What `load_mesh` and `surfaces_of` make of it, bit for bit.

    Raises MeshError with their reasons, or with too_slow, too_much_memory, too_large (the file) or crashed.
    """
    try:
        return unpack(_parsed({"job": "read", "file_type": file_type, "max_faces": max_faces}, data, limits))
    except RefusedError as error:
        raise MeshError(error.reason, error.detail) from error
    except ShapeError as error:
        raise MeshError("crashed", f"its reader answered with nonsense: {error}") from error


def convert(path: Path, data: bytes, limits: Limits = LIMITS) -> tuple[bytes, dict[str, str]]:
    """`convert_to_glb` of the mesh file `path`, and the sha256 of every side file that went into it.

    Raises AssetError with its reasons, those of `SideFiles` or those of a limit, see `read_shape`.
    """
    files = SideFiles(path.parent, limits.side_files, limits.file_bytes)
    try:
        mesh = _parsed({"job": "convert", "name": path.name}, data, limits, files.read)
    except RefusedError as error:
        raise AssetError(error.reason, error.detail) from error
    return mesh, dict(sorted(files.digests.items()))


def check(data: bytes, name: str, limits: Limits = LIMITS) -> bytes:
    """`check_glb`: the bytes as they are. Raises AssetError with its reasons or those of a limit."""
    try:
        _parsed({"job": "check", "name": name}, data, limits)
    except RefusedError as error:
        raise AssetError(error.reason, error.detail) from error
    return data


def probe() -> Confinement:
    """How far parsing is locked in on this machine. Raises SandboxError if it does not start."""
    return _zygote().confinement


def _parsed(header: dict[str, Any], data: bytes, limits: Limits, answer: Callable[[str], bytes] | None = None) -> bytes:
    if len(data) > limits.file_bytes:
        raise RefusedError("too_large", f"{len(data)} bytes; at most {limits.file_bytes} are read")
    return _zygote().run(header, data, limits, answer)


class Zygote:
    """One process that forks another for every mesh."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "data.sandbox.zygote", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=_environment(),
                cwd="/",
            )
        self._end = weakref.finalize(self, _end, self.process, self._control)
        self._control.settimeout(_START_S)
        try:
            (length,) = STATUS.unpack(self._received(STATUS.size))
            self.confinement = Confinement(**json.loads(self._received(length)))
        except (OSError, wire.WireError) as error:
            self.process.kill()
            said = self.process.communicate()[1].decode(errors="replace").strip().splitlines()
            raise SandboxError(f"the process that parses meshes does not start: {said[-1:] or error}") from error
        self.process.stderr.close()

    def run(self, header: dict[str, Any], data: bytes, limits: Limits, answer: Callable[[str], bytes] | None) -> bytes:
        """The result of one job; RefusedError if there is none, SandboxError if the zygote itself is gone."""
        mine, theirs = socket.socketpair()
        deadline = time.monotonic() + limits.wall_s
        with mine:
            try:
                with theirs:
                    socket.send_fds(self._control, [PARSE], [theirs.fileno()])
                sent = json.dumps(asdict(limits)).encode()
                self._control.sendall(STATUS.pack(len(sent)) + sent)
                kind, content, trouble = _conversation(mine, header, data, limits, answer, deadline)
                if trouble is not None:
                    self._control.sendall(KILL)
                (status,) = STATUS.unpack(self._received(STATUS.size))
            except (OSError, wire.WireError) as error:
                raise SandboxError(f"the process that parses meshes is gone: {error}") from error
        if kind == wire.RESULT:
            return content
        if kind == wire.ERROR:
            raise _refusal(content)
        raise _death(status, trouble, limits)

    def _received(self, length: int) -> bytes:
        data = self._control.recv(length, socket.MSG_WAITALL)
        if len(data) < length:
            raise wire.WireError("it closed its socket")
        return data

    @property
    def usable(self) -> bool:
        return self.process.poll() is None and self._end.alive

    def close(self) -> None:
        self._end()


def _conversation(
    channel: socket.socket,
    header: dict[str, Any],
    data: bytes,
    limits: Limits,
    answer: Callable[[str], bytes] | None,
    deadline: float,
) -> tuple[bytes, bytes, Exception | None]:
    """Kind and content of the last frame, or why there is none."""
    allowed = {wire.RESULT: limits.result_bytes, wire.ERROR: wire.SMALL}
    if answer is not None:
        allowed[wire.ASK] = wire.SMALL
    try:
        channel.settimeout(limits.wall_s)
        wire.send_header(channel, wire.REQUEST, **header)
        wire.send(channel, wire.FILE, data)
        while True:
            kind, content = wire.receive(channel, allowed, deadline)
            if kind != wire.ASK or answer is None:
                return kind, content, None
            try:
                found = answer(content.decode(errors="replace"))
            except AssetError as error:
                wire.send_header(channel, wire.REFUSAL, reason=error.reason, detail=error.detail[:2000])
            else:
                wire.send(channel, wire.FILE, found)
    except (OSError, wire.WireError) as error:
        return b"", b"", error


def _refusal(content: bytes) -> RefusedError:
    try:
        said = json.loads(content)
        reason, detail = str(said["reason"]), str(said["detail"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return RefusedError("crashed", f"its reader gave no reason: {type(error).__name__}")
    if not _REASON.fullmatch(reason):
        return RefusedError("crashed", "its reader gave a reason of no form")
    return RefusedError(reason, _CONTROL.sub(" ", detail)[:2000])


def _death(status: int, trouble: Exception | None, limits: Limits) -> RefusedError:
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGXCPU:
        return RefusedError("too_slow", f"reading it takes more than {limits.cpu_s} s of processor time")
    if isinstance(trouble, TimeoutError):
        return RefusedError("too_slow", f"reading it takes more than {limits.wall_s:g} s")
    if isinstance(trouble, wire.WireError) and not isinstance(trouble, wire.GoneError):
        return RefusedError("crashed", f"its reader answered with nonsense: {trouble}")
    if code == -signal.SIGKILL:
        detail = f"the system killed its reader, which may take {limits.memory_bytes >> 20} MiB"
        return RefusedError("too_much_memory", detail)
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return RefusedError("crashed", f"its reader died of {name}")


def _environment() -> dict[str, str]:
    """Nothing of this process's secrets, one thread as everywhere, and the modules where they are found here."""
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    folders = [str(Path(folder or ".").resolve()) for folder in sys.path]
    return {**kept, **threads, "PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(folders)}


def _end(process: subprocess.Popen[bytes], control: socket.socket) -> None:
    control.close()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


_own = threading.local()


def _zygote() -> Zygote:
    """The one of this thread: a new one if it died, or if this process is a copy of the one that started it."""
    known: tuple[int, Zygote] | None = getattr(_own, "zygote", None)
    if known is None or known[0] != os.getpid() or not known[1].usable:
        known = _own.zygote = (os.getpid(), Zygote())
    return known[1]
