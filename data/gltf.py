"""What the header of a glTF file promises: checked before anything is parsed or decoded, at the cost of its JSON alone.

Every count here is the same on every machine, so a mesh is refused everywhere or nowhere.
"""

import base64
import io
import json
import struct
from collections.abc import Iterator
from typing import Any

from PIL import Image

from data.mesh_errors import MeshError

MAX_JSON_BYTES = 256 << 20
MAX_DECLARED_BYTES = 2 << 30
"""Of all views, accessors and primitives together: each is copied, however many share the same bytes of the file."""
MAX_NODES = 100_000
MAX_PARTS = 50_000
"""Primitives that the scene shows, each as often as it is shown."""
MAX_TREE_WORK = 300_000_000
"""Sum over all nodes with a mesh of their depth cubed: trimesh multiplies the matrices above a node in the best order,
and finding that order takes the cube of their number."""
MAX_PIXELS = 1 << 29
"""Of all images that give colour."""
_READ_EXTENSIONS = frozenset(
    {"KHR_materials_unlit", "KHR_materials_pbrSpecularGlossiness", "KHR_materials_specular", "KHR_materials_ior"}
    | {"KHR_materials_emissive_strength", "KHR_materials_clearcoat", "KHR_materials_sheen", "KHR_mesh_quantization"}
    | {"KHR_materials_transmission", "KHR_materials_volume", "KHR_lights_punctual", "EXT_texture_webp"}
)
_JSON_CHUNK, _BINARY_CHUNK = 0x4E4F534A, 0x004E4942
_ITEM_BYTES = {5120: 1, 5121: 1, 5122: 2, 5123: 2, 5125: 4, 5126: 4}
_ITEMS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
_TRIANGLES = 4


def check_gltf(data: bytes, kind: str, max_faces: int) -> None:
    """What trimesh would pass over in silence, or spend memory or time on, before it is asked to parse.

    `kind` is glb or gltf. Raises MeshError.
    """
    tree, binary = _glb_chunks(data) if kind == "glb" else (_json(data), b"")
    try:
        needed = set(tree.get("extensionsRequired") or ()) - _READ_EXTENSIONS
        if needed:
            raise MeshError("unsupported", f"needs {', '.join(sorted(needed))}; convert it without")
        for entry in [*tree.get("buffers", []), *tree.get("images", [])]:
            uri = entry.get("uri")
            if uri is not None and not uri.startswith("data:"):
                raise MeshError("external_files", f"the mesh refers to {uri!r}; embed it")
        _check_counts(tree, len(data), max_faces)
        _check_declared(tree)
        _check_scene(tree, max_faces)
        _check_textures(tree, binary)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise MeshError("corrupt", f"malformed glTF: {type(error).__name__}: {error}") from error


def _check_counts(tree: dict[str, Any], file_size: int, max_faces: int) -> None:
    """Refuse, from the header alone, counts that no file of this size can hold or that exceed the face limit."""
    accessors = tree.get("accessors", [])
    for mesh in tree.get("meshes", []):
        for primitive in mesh["primitives"]:
            used = primitive.get("indices", primitive["attributes"].get("POSITION"))
            # One face to three indices in mode 4 (triangles), to nearly every index in mode 5 (strip).
            per_face = {4: 3, 5: 1}.get(primitive.get("mode", 4))
            if used is None or per_face is None:
                continue
            faces = accessors[used]["count"] // per_face
            if faces > max_faces:
                raise MeshError("too_large", f"{faces} faces in one primitive; at most {max_faces} are read")
    for index, accessor in enumerate(accessors):
        # Without a buffer view an accessor is all zeros, of any length, for a few bytes of JSON.
        if "bufferView" not in accessor and accessor["count"] > 64 * file_size:
            raise MeshError("corrupt", f"accessor {index} has {accessor['count']} items in {file_size} bytes of file")


def _check_declared(tree: dict[str, Any]) -> None:
    """Refuse more bytes than MAX_DECLARED_BYTES, wherever they are said to be, and sparse geometry."""
    accessors = tree.get("accessors", [])
    sizes = [
        _ITEM_BYTES.get(entry["componentType"], 4) * _ITEMS.get(entry["type"], 16) * entry["count"]
        for entry in accessors
    ]
    declared = sum(max(0, size) for size in sizes)
    declared += sum(max(0, view["byteLength"]) for view in tree.get("bufferViews", []))
    for primitive in _primitives(tree):
        used = {primitive["indices"]} if "indices" in primitive else set()
        used |= set(primitive["attributes"].values())
        # trimesh reads the base of a sparse accessor and leaves out what lies on top.
        if any("sparse" in accessors[number] for number in used):
            raise MeshError("unsupported", "its geometry is in a sparse accessor; export it without")
        declared += sum(max(0, sizes[number]) for number in used)
    if declared > MAX_DECLARED_BYTES:
        raise MeshError("too_large", f"declares {declared} bytes of geometry; at most {MAX_DECLARED_BYTES} are read")


def _check_scene(tree: dict[str, Any], max_faces: int) -> None:
    """Refuse a scene that shows more than can be read, however small the file is: instances, and deep trees."""
    nodes, meshes = tree.get("nodes", []), tree.get("meshes", [])
    if len(nodes) > MAX_NODES:
        raise MeshError("too_large", f"{len(nodes)} nodes; at most {MAX_NODES} are read")
    faces_of = [_faces_of(tree, mesh) for mesh in meshes]
    parts = faces = work = 0
    for node, depth in _shown(tree, nodes):
        if "mesh" in node:
            parts += len(meshes[node["mesh"]]["primitives"])
            faces += faces_of[node["mesh"]]
            work += depth**3
    if parts > MAX_PARTS:
        raise MeshError("too_large", f"the scene shows {parts} parts; at most {MAX_PARTS} are read")
    if faces > max_faces:
        raise MeshError("too_large", f"{faces} faces; at most {max_faces} are read")
    if work > MAX_TREE_WORK:
        raise MeshError("too_large", "its nodes lie too deep below each other; flatten the node tree")


def _shown(tree: dict[str, Any], nodes: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], int]]:
    """Each node of the scene once, with the number of matrices that place it."""
    scenes = tree.get("scenes", [])
    roots = scenes[tree.get("scene", 0)].get("nodes", []) if scenes else []
    waiting, seen = [(root, 1) for root in roots], set(roots)
    while waiting:
        number, depth = waiting.pop()
        yield nodes[number], depth
        children = [child for child in nodes[number].get("children", []) if child not in seen]
        seen.update(children)
        waiting += [(child, depth + 1) for child in children]


def _faces_of(tree: dict[str, Any], mesh: dict[str, Any]) -> int:
    """Of its plain triangles: how many a strip holds is known once it is read."""
    counts = [
        tree["accessors"][primitive.get("indices", primitive["attributes"].get("POSITION"))]["count"]
        for primitive in mesh["primitives"]
        if primitive.get("mode", _TRIANGLES) == _TRIANGLES
    ]
    return sum(max(0, count) // 3 for count in counts)


def _primitives(tree: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for mesh in tree.get("meshes", []):
        yield from mesh["primitives"]


def _glb_chunks(data: bytes) -> tuple[dict[str, Any], bytes]:
    if len(data) < 20 or data[:4] != b"glTF":
        raise MeshError("corrupt", f"starts with {data[:4]!r}, not b'glTF'")
    version, length, json_length, chunk = struct.unpack_from("<IIII", data, 4)
    if version != 2:
        raise MeshError("corrupt", f"GLB version {version}; version 2 is read")
    if length > len(data) or 20 + json_length > len(data):
        raise MeshError("corrupt", f"cut short: {len(data)} bytes of {max(length, 20 + json_length)}")
    if chunk != _JSON_CHUNK:
        raise MeshError("corrupt", f"the first chunk is {chunk:#x}, not JSON")
    tree, start, binary = _json(data[20 : 20 + json_length]), 20 + json_length, b""
    if start + 8 <= len(data):
        binary_length, kind = struct.unpack_from("<II", data, start)
        if kind == _BINARY_CHUNK:
            binary = data[start + 8 : start + 8 + binary_length]
    return tree, binary


def _json(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_JSON_BYTES:
        raise MeshError("too_large", f"{len(data)} bytes of JSON; at most {MAX_JSON_BYTES} are read")
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MeshError("corrupt", f"its JSON cannot be read: {error}") from error
    if not isinstance(tree, dict):
        raise MeshError("corrupt", f"its JSON is a {type(tree).__name__}, not an object")
    return tree


def _check_textures(tree: dict[str, Any], binary: bytes) -> None:
    """Textures that give colour must be readable and lie as trimesh reads them; it would drop them silently."""
    sources = set()
    for material in tree.get("materials", []):
        glossy = material.get("extensions", {}).get("KHR_materials_pbrSpecularGlossiness", {})
        base = material.get("pbrMetallicRoughness", {})
        slots = (base.get("baseColorTexture"), material.get("emissiveTexture"), glossy.get("diffuseTexture"))
        for slot in (slot for slot in slots if slot is not None):
            shift = slot.get("extensions", {}).get("KHR_texture_transform", {})
            if slot.get("texCoord", 0) or any(shift.get(key) for key in ("offset", "rotation", "scale", "texCoord")):
                raise MeshError("unsupported", "a texture is placed by KHR_texture_transform or a second set of UVs")
            texture = tree["textures"][slot["index"]]
            source = texture.get("extensions", {}).get("EXT_texture_webp", texture).get("source")
            if source is None:
                formats = ", ".join(sorted(texture.get("extensions", {}))) or "no image"
                raise MeshError("unsupported", f"texture {slot['index']} has {formats}; PNG, JPEG and WebP are read")
            sources.add(source)
    pixels = 0
    for source in sorted(sources):
        image = tree["images"][source]
        if image.get("mimeType") == "image/ktx2":
            raise MeshError("unsupported", f"image {source} is KTX2; PNG, JPEG and WebP are read")
        try:
            with Image.open(io.BytesIO(_image_bytes(tree, image, binary))) as opened:
                pixels += opened.width * opened.height
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise MeshError(
                "bad_texture", f"image {source} ({image.get('mimeType')}) does not open: {error}"
            ) from error
        if pixels > MAX_PIXELS:
            raise MeshError("too_large", f"{pixels} pixels in its textures; at most {MAX_PIXELS} are decoded")


def _image_bytes(tree: dict[str, Any], image: dict[str, Any], binary: bytes) -> bytes:
    if "bufferView" not in image:
        return _embedded(image["uri"])
    view = tree["bufferViews"][image["bufferView"]]
    buffer = tree["buffers"][view.get("buffer", 0)]
    data = _embedded(buffer["uri"]) if "uri" in buffer else binary
    start = view.get("byteOffset", 0)
    return data[start : start + view["byteLength"]]


def _embedded(uri: str) -> bytes:
    return base64.b64decode(uri.partition("base64,")[2])
