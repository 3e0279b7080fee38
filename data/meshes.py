"""Mesh files to scenes in a unit box. Bad input raises MeshError with a reason; nothing else is ever read."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import trimesh
from trimesh.resolvers import Resolver

from data.gltf import check_gltf
from data.mesh_errors import MeshError

FILE_TYPES = ("glb", "gltf", "obj", "ply")
MAX_FACES = 2_000_000


class _RefuseFiles(Resolver):
    """Answers every request of a loader for another file with a refusal, and remembers the first."""

    def __init__(self) -> None:
        self.asked: str | None = None

    def get(self, key: str) -> bytes:
        self.asked = self.asked or str(key)
        raise MeshError("external_files", f"the mesh refers to {key!r}; only self-contained files are read")

    def keys(self) -> list[str]:
        return []

    def namespaced(self, namespace: str) -> "_RefuseFiles":
        return self

    def write(self, name: str, data: bytes) -> None:
        raise NotImplementedError("files are only read")


def load_mesh(data: bytes, file_type: str, max_faces: int = MAX_FACES) -> trimesh.Scene:
    """The mesh as a flat scene, centred, its longest side 1, without touching the file system or the network.

    One geometry per instance in the file, with the node transforms applied, named "0000", "0001" ... in the order of
    node names; vertex and face colours of OBJ and PLY, which are sRGB, are turned linear as in glTF.
    `file_type` is one of FILE_TYPES. Raises MeshError and nothing else.
    """
    kind = file_type.lower().lstrip(".")
    if kind not in FILE_TYPES:
        raise MeshError("file_type", f"{file_type!r} is not read; read are {', '.join(FILE_TYPES)}")
    if kind in ("glb", "gltf"):
        check_gltf(data, kind, max_faces)
    parts = list(_instances(_parse(data, kind), max_faces))
    if not parts:
        raise MeshError("empty", "the scene shows no geometry")
    meshes = [part for part in parts if isinstance(part, trimesh.Trimesh) and len(part.faces)]
    if not meshes:
        kinds = ", ".join(sorted({type(part).__name__ for part in parts}))
        raise MeshError("no_faces", f"the scene holds no triangle, only {kinds}")
    if kind in ("obj", "ply"):
        for mesh in meshes:
            linearise_colours(mesh)
    _normalise(meshes)
    return trimesh.Scene({f"{index:04d}": mesh for index, mesh in enumerate(meshes)})


def bounding_radius(scene: trimesh.Scene) -> float:
    """Radius of the sphere about the origin that holds the scene: what a camera's distance is chosen by."""
    corners = (mesh.vertices[np.unique(mesh.faces)] for mesh in scene.geometry.values())
    return max(float(np.linalg.norm(points, axis=1).max()) for points in corners)


def _parse(data: bytes, kind: str) -> trimesh.Scene:
    resolver = _RefuseFiles()
    try:
        scene = trimesh.load_scene(io.BytesIO(data), file_type=kind, resolver=resolver, process=False)
    except (MeshError, MemoryError):
        raise
    except Exception as error:
        # The loaders raise anything from KeyError to struct.error on a malformed file.
        raise MeshError("corrupt", f"{type(error).__name__}: {error}") from error
    if resolver.asked is not None:
        raise MeshError("external_files", f"the mesh refers to {resolver.asked!r}; embed it")
    return scene


def _instances(scene: trimesh.Scene, max_faces: int) -> Iterator[Any]:
    """Copies of the geometries in world coordinates; MeshError too_large before anything is copied."""
    try:
        nodes = [(name, *scene.graph[name]) for name in sorted(scene.graph.nodes_geometry, key=str)]
        faces = sum(len(getattr(scene.geometry[key], "faces", ())) for _, _, key in nodes)
    except (KeyError, ValueError, IndexError) as error:
        raise MeshError("corrupt", f"broken scene graph: {type(error).__name__}: {error}") from error
    if faces > max_faces:
        raise MeshError("too_large", f"{faces} faces; at most {max_faces} are read")
    for name, transform, key in nodes:
        geometry = scene.geometry[key]
        if not len(getattr(geometry, "vertices", ())):
            continue
        if not np.isfinite(transform).all():
            raise MeshError("not_finite", f"the transform of node {name!r} is not finite")
        if isinstance(geometry, trimesh.Trimesh):
            _check_arrays(geometry, str(key))
            geometry = _placed(geometry, transform)
        yield geometry


def _placed(mesh: trimesh.Trimesh, transform: np.ndarray) -> trimesh.Trimesh:
    """A transformed copy that keeps the file's normals (in trimesh's cache) and shares the material."""
    placed = mesh.copy(include_cache=True, include_visual=False)
    placed.apply_transform(transform)
    if mesh.visual.kind == "texture":
        placed.visual = trimesh.visual.TextureVisuals(uv=mesh.visual.uv, material=mesh.visual.material)
        for name, values in mesh.visual.vertex_attributes.items():
            placed.visual.vertex_attributes[name] = values
    else:
        placed.visual = mesh.visual.copy()
    return placed


def _check_arrays(mesh: trimesh.Trimesh, name: str) -> None:
    if not len(mesh.faces):
        return
    if not np.isfinite(mesh.vertices).all():
        bad = int((~np.isfinite(mesh.vertices)).any(axis=1).sum())
        raise MeshError("not_finite", f"{bad} of {len(mesh.vertices)} vertices of {name!r} are NaN or infinite")
    lowest, highest = int(mesh.faces.min()), int(mesh.faces.max())
    if lowest < 0 or highest >= len(mesh.vertices):
        wrong = lowest if lowest < 0 else highest
        raise MeshError("corrupt", f"a face of {name!r} uses vertex {wrong} of {len(mesh.vertices)}")


def _normalise(meshes: list[trimesh.Trimesh]) -> None:
    """Centre and scale in place. Vertices that no face uses do not count."""
    used = [mesh.vertices[np.unique(mesh.faces)] for mesh in meshes]
    low = np.min([vertices.min(axis=0) for vertices in used], axis=0)
    high = np.max([vertices.max(axis=0) for vertices in used], axis=0)
    longest = float((high - low).max())
    if not np.isfinite(longest):
        raise MeshError("not_finite", f"the extent {longest} of the scene is not finite")
    offset = float(np.abs([low, high]).max())
    # Below 1e-6 of the offset, float32 positions, which mesh files store, hold no shape.
    if longest <= 1e-6 * offset or longest < 1e-30:
        raise MeshError("degenerate", f"the longest side is {longest:g}, {offset:g} off the origin: no shape is left")
    matrix = np.eye(4)
    matrix[:3, :3] /= longest
    matrix[:3, 3] = -(low + high) / 2 / longest
    for mesh in meshes:
        # A uniform scale and a shift leave normals as they are, which apply_transform knows.
        mesh.apply_transform(matrix)
    if not any(_has_area(mesh) for mesh in meshes):
        raise MeshError("degenerate", "no face has an area")


def _has_area(mesh: trimesh.Trimesh) -> bool:
    a, b, c = (mesh.vertices[mesh.faces[:, corner]] for corner in range(3))
    return bool((np.linalg.norm(np.cross(b - a, c - a), axis=1) > 1e-12).any())


def linearise_colours(mesh: trimesh.Trimesh) -> None:
    """Vertex or face colours from sRGB, as OBJ and PLY hold them, to linear, as glTF does; in place."""
    if mesh.visual.kind == "vertex":
        mesh.visual.vertex_colors = _linear8(mesh.visual.vertex_colors)
    elif mesh.visual.kind == "face":
        mesh.visual.face_colors = _linear8(mesh.visual.face_colors)


def _linear8(colours: np.ndarray) -> np.ndarray:
    value = colours[:, :3] / 255.0
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return np.concatenate([np.round(linear * 255).astype(np.uint8), colours[:, 3:]], axis=1)
