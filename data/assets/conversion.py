"""GLTF, OBJ and PLY to GLB."""

import io
import json
from collections.abc import Callable
from pathlib import PurePath

import trimesh
from PIL import Image
from trimesh.resolvers import Resolver

from data.assets.base import AssetError
from data.meshes import linearise_colours

_IMAGES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tga", ".tif", ".tiff", ".webp", ".gif"})


def convert_to_glb(name: str, data: bytes, side_file: Callable[[str], bytes]) -> bytes:
    """GLB of the mesh file `name`, whose bytes are `data`; `side_file` gives the files that it refers to.

    Same files, same bytes. Raises AssetError: what `side_file` raises, side_file_unreadable (an image that does not
    decode), unreadable (the mesh itself), conversion (read, but not writable as GLB).
    """
    suffix = PurePath(name).suffix.lower()
    resolver = _Answers(side_file)
    if suffix == ".gltf":
        data = _plain_json(name, data)
    try:
        scene = trimesh.load_scene(io.BytesIO(data), file_type=suffix[1:], resolver=resolver)
    except MemoryError:
        raise
    except Exception as error:
        # The loaders raise anything from KeyError to struct.error on a malformed file.
        raise resolver.problem or AssetError("unreadable", f"{name}: {type(error).__name__}: {error}") from error
    # The loaders carry on without a texture or material file that they cannot get.
    if resolver.problem:
        raise resolver.problem
    if not scene.geometry:
        raise AssetError("unreadable", f"{name} holds no geometry")
    if suffix in (".obj", ".ply"):
        for geometry in scene.geometry.values():
            if isinstance(geometry, trimesh.Trimesh):
                linearise_colours(geometry)
    try:
        return scene.export(file_type="glb")
    except MemoryError:
        raise
    except Exception as error:
        raise AssetError("conversion", f"{name}: {type(error).__name__}: {error}") from error


def _plain_json(name: str, data: bytes) -> bytes:
    """The JSON of a glTF file, checked: the loader answers JSON that it cannot read by reading model.gltf instead."""
    try:
        return json.dumps(json.loads(data)).encode()
    except (ValueError, RecursionError) as error:
        raise AssetError("unreadable", f"{name}: not JSON: {error}") from error


class _Answers(Resolver):
    """Passes on what a trimesh loader asks for, and remembers the first problem, since loaders swallow it for images
    and material files."""

    def __init__(self, side_file: Callable[[str], bytes]) -> None:
        self._side_file = side_file
        self.problem: AssetError | None = None

    def get(self, key: str) -> bytes:
        try:
            data = self._side_file(key)
            if PurePath(key.strip().replace("\\", "/")).suffix.lower() in _IMAGES:
                _check_image(key, data)
        except AssetError as error:
            self.problem = self.problem or error
            raise
        return data

    def keys(self) -> list[str]:
        return []

    def namespaced(self, namespace: str) -> "_Answers":
        raise NotImplementedError("formats that open archives or nested folders are not read")

    def write(self, name: str, data: bytes) -> None:
        raise NotImplementedError("side files are only read")


def _check_image(key: str, data: bytes) -> None:
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise AssetError("side_file_unreadable", f"{key!r}: {error}") from error
