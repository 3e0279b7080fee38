"""Files that are small and want much, built where they are needed."""

import base64
import json
import struct
import zlib
from typing import Any

JSON_CHUNK, BINARY_CHUNK = 0x4E4F534A, 0x004E4942


def png_header(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG of that size by its header; `data` is what stands in for its pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def zeros_png(width: int, height: int) -> bytes:
    """A black PNG: whole, and a thousandth of what it unpacks to."""
    packer = zlib.compressobj(9)
    row = bytes(1 + 3 * width)
    packed = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    return png_header(width, height, packed)


def triangle(**changes: Any) -> dict[str, Any]:
    """A glTF tree of one triangle, its 42 bytes in the binary chunk; `changes` replace whole entries."""
    return {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
        "buffers": [{"byteLength": 44}],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": 36},
            {"buffer": 0, "byteOffset": 36, "byteLength": 6},
        ],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3", "min": [0, 0, 0], "max": [1, 1, 0]},
            {"bufferView": 1, "componentType": 5123, "count": 3, "type": "SCALAR"},
        ],
        **changes,
    }


TRIANGLE_BYTES = struct.pack("<9f3HH", 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 1, 2, 0)


def glb(tree: dict[str, Any] | bytes, binary: bytes = TRIANGLE_BYTES) -> bytes:
    text = tree if isinstance(tree, bytes) else json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    binary += b"\0" * (-len(binary) % 4)
    body = struct.pack("<II", len(text), JSON_CHUNK) + text + struct.pack("<II", len(binary), BINARY_CHUNK) + binary
    return struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body


def textured(image: bytes) -> bytes:
    """The triangle with this image as its colour."""
    tree = triangle(
        materials=[{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}],
        textures=[{"source": 0}],
        images=[{"uri": "data:image/png;base64," + base64.b64encode(image).decode()}],
    )
    tree["accessors"].append({"bufferView": 2, "componentType": 5126, "count": 3, "type": "VEC2"})
    tree["bufferViews"].append({"buffer": 0, "byteOffset": 44, "byteLength": 24})
    tree["buffers"][0]["byteLength"] = 68
    primitive = tree["meshes"][0]["primitives"][0]
    primitive["attributes"]["TEXCOORD_0"], primitive["material"] = 2, 0
    return glb(tree, TRIANGLE_BYTES + struct.pack("<6f", 0, 0, 1, 0, 0, 1))


def many_nodes(count: int) -> bytes:
    return glb(triangle(nodes=[{"mesh": 0}] + [{}] * (count - 1)))


def instances(count: int) -> bytes:
    """The triangle that many times over."""
    return glb(triangle(nodes=[{"mesh": 0}] * count, scenes=[{"nodes": list(range(count))}]))


def chain(depth: int, mesh_everywhere: bool = False) -> bytes:
    """Each node below the one before, shifted; the triangle at the end, or at every node."""
    node = {"translation": [1, 0, 0], **({"mesh": 0} if mesh_everywhere else {})}
    nodes = [{**node, "children": [number + 1]} for number in range(depth - 1)]
    return glb(triangle(nodes=[*nodes, {"mesh": 0}]))


def cycle() -> bytes:
    return glb(triangle(nodes=[{"children": [1]}, {"children": [0], "mesh": 0}]))


def doubling(levels: int) -> bytes:
    """Every node names the next one twice: two to the power of `levels` ways down."""
    nodes = [{"children": [number + 1, number + 1]} for number in range(levels)]
    return glb(triangle(nodes=[*nodes, {"mesh": 0}]))


def copied(primitives: int, view_bytes: int) -> bytes:
    """Many primitives on the same positions: each takes its own copy of them."""
    count = view_bytes // 12
    tree = triangle(
        buffers=[{"byteLength": view_bytes}],
        bufferViews=[{"buffer": 0, "byteOffset": 0, "byteLength": view_bytes}],
        accessors=[{"bufferView": 0, "componentType": 5126, "count": count, "type": "VEC3"}],
        meshes=[{"primitives": [{"attributes": {"POSITION": 0}, "mode": 0}] * primitives}],
    )
    return glb(tree, bytes(view_bytes))


def edited(**changes: Any) -> bytes:
    return glb(triangle(**changes))


def with_accessor(number: int, **changes: Any) -> bytes:
    tree = triangle()
    tree["accessors"][number] |= changes
    return glb(tree)


def without_view(count: int) -> bytes:
    """Positions that no byte of the file holds: all zeros, as many as they say."""
    tree = triangle()
    del tree["accessors"][0]["bufferView"]
    tree["accessors"][0]["count"] = count
    return glb(tree)


def obj_lines(vertices: int) -> bytes:
    return b"v 0.1 0.2 0.3\n" * vertices + b"f 1 2 3\n"


def ply(vertices: int, faces: int = 1, body: bytes = b"\0" * 64, form: str = "binary_little_endian") -> bytes:
    head = f"ply\nformat {form} 1.0\nelement vertex {vertices}\nproperty float x\nproperty float y\nproperty float z\n"
    return f"{head}element face {faces}\nproperty list uchar int vertex_indices\nend_header\n".encode() + body
