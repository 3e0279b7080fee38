"""What a confined process does with one mesh; and what must be loaded before it is confined."""

import codecs
import encodings
import importlib
import importlib.abc
import io
import json
import pkgutil
import random
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np
import trimesh
from PIL import Image

from data.assets.base import AssetError
from data.assets.conversion import convert_to_glb
from data.assets.glb import check_glb
from data.meshes import MeshError, bounding_radius, load_mesh
from data.sandbox import wire
from data.sandbox.confinement import Limits
from data.sandbox.shapes import pack
from data.surfaces import Shape, surfaces_of

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TGA", "TIFF")
"""Decoders that a texture may reach."""
_LOADED_LATE = (
    *("trimesh.path.entities", "trimesh.path.path", "trimesh.path.packing", "trimesh.path.exchange.misc"),
    *("trimesh.visual.color", "trimesh.visual.gloss", "trimesh.visual.objects", "trimesh.visual.texture"),
    "charset_normalizer",
)
"""Modules that readers import when a mesh needs them."""
TOO_MUCH_MEMORY = "too_much_memory"


def serve(channel: socket.socket, limits: Limits) -> None:
    """Answer the one request on the channel."""
    header = json.loads(wire.receive(channel, {wire.REQUEST: wire.SMALL})[1])
    data = wire.receive(channel, {wire.FILE: limits.file_bytes})[1]
    # trimesh names the parts of a mesh with random letters, and parts are ordered by name.
    random.seed(0)
    try:
        result = _JOBS[header.pop("job")](data, channel, limits, **header)
    except (MeshError, AssetError) as error:
        _refuse(channel, error.reason, error.detail)
    except MemoryError:
        _refuse(channel, TOO_MUCH_MEMORY, f"reading it takes more than {limits.memory_bytes >> 20} MiB")
    except Exception as error:
        _refuse(channel, "crashed", f"the reader stumbled: {type(error).__name__}: {error}")
    else:
        wire.send(channel, wire.RESULT, result)


def _refuse(channel: socket.socket, reason: str, detail: str) -> None:
    if _guard.missed:
        detail = f"{detail} (asked for the modules {', '.join(sorted(_guard.missed))})"
    wire.send_header(channel, wire.ERROR, reason=reason, detail=detail[:2000])


def _read(data: bytes, channel: socket.socket, limits: Limits, file_type: str, max_faces: int) -> bytes:
    scene = load_mesh(data, file_type, max_faces)
    return pack(Shape(surfaces_of(scene), bounding_radius(scene)))


def _convert(data: bytes, channel: socket.socket, limits: Limits, name: str) -> bytes:
    def ask(key: str) -> bytes:
        wire.send(channel, wire.ASK, key.encode(errors="replace")[: wire.SMALL])
        kind, answer = wire.receive(channel, {wire.FILE: limits.file_bytes, wire.REFUSAL: wire.SMALL})
        if kind == wire.REFUSAL:
            raise AssetError(**json.loads(answer))
        return answer

    return convert_to_glb(name, data, ask)


def _check(data: bytes, channel: socket.socket, limits: Limits, name: str) -> bytes:
    check_glb(data, name)
    return b""


_JOBS: dict[str, Callable[..., bytes]] = {"read": _read, "convert": _convert, "check": _check}


class _ImportGuard(importlib.abc.MetaPathFinder):
    """Refuses modules that were not loaded in time, and remembers their names: their files are out of reach."""

    def __init__(self) -> None:
        self.missed: set[str] = set()

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        self.missed.add(name)
        raise ModuleNotFoundError(f"{name} is not loaded where meshes are parsed", name=name)


_guard = _ImportGuard()


def warm_up() -> None:
    """Go once through every reader, so that all they load is there; from then on no module can be loaded."""
    for module in _LOADED_LATE:
        importlib.import_module(module)
    for encoding in pkgutil.iter_modules(encodings.__path__):
        with suppress(LookupError):  # of another system
            codecs.lookup(encoding.name)
    Image.init()
    Image.ID[:] = [name for name in Image.ID if name in IMAGE_FORMATS]
    for data, kind in _examples():
        shape = Shape(surfaces_of(scene := load_mesh(data, kind)), bounding_radius(scene))
        pack(shape)
    for name, data, files in _with_side_files():
        convert_to_glb(name, data, files.__getitem__)
    sys.meta_path.insert(0, _guard)


def _examples() -> list[tuple[bytes, str]]:
    plain, coloured = trimesh.creation.box(), trimesh.creation.box()
    coloured.visual.vertex_colors = np.tile([200, 100, 0, 255], (8, 1)).astype(np.uint8)
    faces = trimesh.creation.box()
    faces.visual.face_colors = np.tile([200, 100, 0, 255], (12, 1)).astype(np.uint8)
    examples: list[tuple[bytes, str]] = [(mesh.export(file_type="ply"), "ply") for mesh in (plain, coloured, faces)]
    examples += [(mesh.export(file_type="glb"), "glb") for mesh in (plain, coloured, faces)]
    examples.append((plain.export(file_type="ply", encoding="ascii"), "ply"))
    examples.append((plain.export(file_type="obj").encode(), "obj"))
    return examples + [(_textured(kind).export(file_type="glb"), "glb") for kind in ("PNG", "JPEG", "WEBP")]


def _textured(kind: str) -> trimesh.Trimesh:
    picture = Image.open(io.BytesIO(_picture(kind)))
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=picture, emissiveTexture=picture)
    visual = trimesh.visual.TextureVisuals(uv=[[0, 0], [1, 0], [0, 1]], material=material)
    return trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]], visual=visual, process=False)


def _picture(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (200, 100, 0)).save(buffer, format=kind)
    return buffer.getvalue()


def _with_side_files() -> list[tuple[str, bytes, dict[str, bytes]]]:
    obj = b"mtllib a.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\nusemtl a\nf 1/1 2/2 3/3\n"
    files = {f"a.{kind.lower()}": _picture(kind) for kind in IMAGE_FORMATS}
    made: list[tuple[str, bytes, dict[str, bytes]]] = [
        ("a.obj", obj, {"a.mtl": f"newmtl a\nKd 1 1 1\nmap_Kd {name}\n".encode(), name: data})
        for name, data in files.items()
    ]
    exported: dict[str, Any] = _textured("PNG").export(file_type="gltf")
    tree = exported.pop("model.gltf")
    made.append(("a.gltf", tree, exported))
    corners = struct.pack("<9f", 0, 0, 0, 1, 0, 0, 0, 1, 0)
    head = (
        b"ply\nformat binary_big_endian 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
    )
    face = b"element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    big = struct.pack(">9f", *struct.unpack("<9f", corners))
    made.append(("a.ply", head + face + big + struct.pack(">B3i", 3, 0, 1, 2), {}))
    return made
