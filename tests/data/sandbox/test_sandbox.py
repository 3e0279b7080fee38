"""The process that parses meshes: what it may not do, that its results are those of this process, and how it ends."""

import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import trimesh

from data.assets.conversion import convert_to_glb
from data.mesh_errors import MeshError
from data.meshes import bounding_radius, load_mesh
from data.sandbox import client, jobs, wire
from data.sandbox.client import SandboxError, Zygote, convert, probe, read_shape
from data.sandbox.confinement import LIMITS, Limits
from data.sandbox.shapes import ShapeError, pack, unpack
from data.surfaces import Shape, surfaces_of
from models.miniature.world import export_glb, parse_id

MESHES = Path(os.environ.get("SYNCD_TEST_MESHES", Path(__file__).resolve().parents[4] / "shared" / "meshes"))
OBJECTS = ("teapot-pink-black-dotted-48", "chair-pink-cyan-plain-32", "duck-yellow-cyan-dotted-26")


def here(data: bytes, kind: str) -> Shape:
    random.seed(0)
    scene = load_mesh(data, kind)
    return Shape(surfaces_of(scene), bounding_radius(scene))


def forms() -> dict[str, tuple[bytes, str]]:
    """Every kind of file and of colour that is read."""
    found: dict[str, tuple[bytes, str]] = {f"example {place}": one for place, one in enumerate(jobs._examples())}
    found |= {name: (export_glb(parse_id(name)), "glb") for name in OBJECTS}
    lines = trimesh.Scene([trimesh.creation.box(), trimesh.load_path(np.random.default_rng(0).random((4, 3)))])
    found["with lines"] = (lines.export(file_type="glb"), "glb")
    found["with points"] = (
        trimesh.Scene([trimesh.creation.box(), trimesh.PointCloud(np.eye(3))]).export(file_type="glb"),
        "glb",
    )
    found["latin text"] = (
        "# caf\xe9\n".encode("latin-1") + trimesh.creation.box().export(file_type="obj").encode(),
        "obj",
    )
    found |= {path.stem: (path.read_bytes(), "glb") for path in sorted(MESHES.glob("*.glb"))}
    return found


@pytest.mark.parametrize("name", forms())
def test_a_shape_is_that_of_this_process_bit_for_bit(name: str) -> None:
    data, kind = forms()[name]
    assert pack(read_shape(data, kind)) == pack(here(data, kind))


def test_conversion_is_that_of_this_process_bit_for_bit(tmp_path: Path) -> None:
    for place, (name, data, files) in enumerate(jobs._with_side_files()):
        folder = tmp_path / str(place)
        folder.mkdir()
        for key, content in files.items():
            (folder / key).write_bytes(content)
        made, digests = convert(folder / name, data)
        assert made == convert_to_glb(name, data, files.__getitem__)
        assert sorted(digests) == sorted(files)


def test_reasons_are_those_of_this_process() -> None:
    for data, kind in ((b"", "glb"), (b"v 0 0 0\n", "obj"), (b"\0", "stl")):
        with pytest.raises(MeshError) as inside:
            read_shape(data, kind)
        with pytest.raises(MeshError) as own:
            load_mesh(data, kind)
        assert inside.value.args == own.value.args


def confined(action: str) -> str:
    """What an action says in a process that is locked in as one that parses."""
    program = f"""
import os, socket, subprocess, ctypes, signal
from data.sandbox.confinement import Limits, address_space, lock_in, seal
started = address_space()
said = os.dup(1)
seal()
os.dup2(said, 3)
lock_in(Limits(memory_bytes=256 << 20), started)
try:
    {action}
    answer = "allowed"
except BaseException as error:
    answer = type(error).__name__ + " " + str(getattr(error, "errno", ""))
os.write(3, answer.encode())
"""
    environment = {**client._environment()}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "action",
    [
        "open('/etc/passwd').read()",
        "(os.close(0), open('/etc/passwd').read())",
        "os.open('/tmp/made', os.O_CREAT | os.O_WRONLY)",
        "os.listdir('/')",
        "os.mkdir('/tmp/syncd-made')",
        "socket.socket()",
        "os.execv('/bin/true', ['true'])",
        "os.kill(os.getppid(), 0)",
        "bytearray(300 << 20)",
        "os.fork() or os._exit(0)",
    ],
)
def test_what_a_mesh_may_not_do(action: str) -> None:
    if not probe().landlock and action.startswith(("os.mkdir", "os.exec", "os.kill")):
        pytest.skip("this kernel has no Landlock")
    if not probe().privileges_dropped and os.geteuid() == 0 and "fork" in action:
        pytest.skip("this user namespace knows no other user")
    assert confined(action) != "allowed"


def test_no_secret_of_this_process_is_in_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with_key = Zygote()
    environment = Path(f"/proc/{with_key.process.pid}/environ").read_bytes()
    with_key.close()
    assert b"PYTHONPATH" in environment and b"secret" not in environment


def test_modules_that_meshes_need_are_loaded_before() -> None:
    """In a process of its own: what is asked for after the warm-up is what a mesh could miss."""
    program = """
from data.sandbox import jobs
jobs.warm_up()
import io, sys, json
from data.meshes import load_mesh, bounding_radius
from data.surfaces import Shape, surfaces_of
from data.sandbox.shapes import pack
for data, kind in [(bytes.fromhex(one), kind) for one, kind in json.load(sys.stdin)]:
    scene = load_mesh(data, kind)
    pack(Shape(surfaces_of(scene), bounding_radius(scene)))
print(sorted(jobs._guard.missed))
"""
    given = json.dumps([(data.hex(), kind) for data, kind in forms().values()])
    done = subprocess.run(
        [sys.executable, "-c", program], input=given, capture_output=True, text=True, env=client._environment()
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_a_process_that_dies_is_replaced() -> None:
    data = export_glb(parse_id(OBJECTS[0]))
    expected = pack(read_shape(data, "glb"))
    killed = client._zygote()
    os.kill(killed.process.pid, signal.SIGKILL)
    killed.process.wait()
    assert pack(read_shape(data, "glb")) == expected
    assert client._zygote() is not killed


def test_a_process_that_does_not_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trimesh.py").write_text("import a_module_that_is_missing\n")
    monkeypatch.setattr(client, "_environment", lambda: {"PYTHONPATH": str(tmp_path)})
    with pytest.raises(SandboxError, match="No module named") as caught:
        Zygote()
    assert caught.value.transient


def test_each_thread_has_its_own_and_leaves_none_behind() -> None:
    found: list[Zygote] = []

    def work() -> None:
        read_shape(export_glb(parse_id(OBJECTS[0])), "glb")
        found.append(client._zygote())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    (own,) = found
    assert own is not client._zygote()
    process = own.process
    found.clear()
    del own
    assert process.wait(timeout=20) == 0


def test_a_process_ends_with_the_one_that_started_it() -> None:
    program = "from data.sandbox import client; print(client._zygote().process.pid, flush=True); import os; os._exit(0)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=client._environment())
    with pytest.raises(ProcessLookupError):
        for _ in range(200):
            os.kill(int(done.stdout), 0)
            threading.Event().wait(0.05)


SHAPE = here(export_glb(parse_id(OBJECTS[0])), "glb")


def tampered(**changes: np.ndarray | None) -> bytes:
    arrays = safetensors.numpy.load(pack(SHAPE))
    arrays |= {name.replace("_", "."): value for name, value in changes.items()}
    return safetensors.numpy.save({name: value for name, value in arrays.items() if value is not None})


def parts(**changes: object) -> np.ndarray:
    head = json.loads(safetensors.numpy.load(pack(SHAPE))["parts"].tobytes())
    head["parts"][0] |= changes
    return np.frombuffer(json.dumps(head).encode(), np.uint8)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 64,
        pack(SHAPE)[:-5],
        tampered(indices_0=np.array([0, 1, 2**31], np.uint32)),
        tampered(indices_0=np.array([0, 1], np.uint32)),
        tampered(indices_0=np.array([0, 1, 2], np.int64)),
        tampered(vertices_0=np.full((9, 12), np.nan, np.float32)),
        tampered(vertices_0=np.zeros((9, 11), np.float32)),
        tampered(vertices_0=None),
        tampered(parts=parts(base_factor=[1, 1, 1])),
        tampered(parts=parts(alpha_cutoff=float("nan"))),
        tampered(parts=parts(base_texture=7)),
        tampered(parts=parts(base_texture=0), texture_0=np.zeros((1, 4000, 4), np.uint8)),
        tampered(parts=np.frombuffer(b"[" * 10**5, np.uint8)),
    ],
    ids=range(14),
)
def test_a_shape_that_could_not_come_of_a_mesh_is_refused(data: bytes) -> None:
    with pytest.raises(ShapeError):
        unpack(data)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"X" + b"\0" * 8,
        b"R" + struct.pack("<Q", 2**40),
        b"A" + struct.pack("<Q", 1) + b"x",
        b"E" + struct.pack("<Q", 1) + b"{",
    ],
)
def test_an_answer_of_no_form_is_a_crash_of_the_reader(answer: bytes) -> None:
    mine, theirs = socket.socketpair()
    with mine, theirs:
        theirs.sendall(answer)
        theirs.shutdown(socket.SHUT_WR)
        kind, content, trouble = client._conversation(mine, {}, b"", Limits(wall_s=5), None, time.monotonic() + 5)
    refusal = client._refusal(content) if kind == wire.ERROR else client._death(0, trouble, LIMITS)
    assert refusal.reason == "crashed"


def test_what_a_reader_says_is_one_plain_line() -> None:
    said = client._refusal(json.dumps({"reason": "corrupt", "detail": "a\x1b[31mred\nnew line"}).encode())
    assert (said.reason, said.detail) == ("corrupt", "a [31mred new line")
    assert client._refusal(json.dumps({"reason": "Not A Code", "detail": ""}).encode()).reason == "crashed"
