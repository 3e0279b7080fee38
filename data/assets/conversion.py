"""GLTF, OBJ and PLY to GLB, with side files taken from the asset's own folder and from nowhere else."""

import hashlib
import io
import json
import re
from pathlib import Path
from urllib.parse import unquote

import trimesh
from PIL import Image
from trimesh.resolvers import Resolver

from data.assets.base import AssetError
from data.meshes import linearise_colours

_IMAGES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tga", ".tif", ".tiff", ".webp", ".gif"})
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def convert_to_glb(path: Path, data: bytes) -> tuple[bytes, dict[str, str]]:
    """GLB of the mesh file `path`, whose bytes are `data`, and the sha256 of every side file that was read.

    Same files, same bytes. Raises AssetError: side_file_refused (outside the folder of `path`, absolute or a web
    address), side_file_missing, side_file_unreadable (an image that does not decode), unreadable (the mesh itself),
    conversion (read, but not writable as GLB).
    """
    resolver = FolderResolver(path.parent)
    if path.suffix.lower() == ".gltf":
        data = _plain_json(path.name, data)
    try:
        scene = trimesh.load_scene(io.BytesIO(data), file_type=path.suffix[1:].lower(), resolver=resolver)
    except Exception as error:
        # The loaders raise anything from KeyError to struct.error on a malformed file.
        raise resolver.problem or AssetError("unreadable", f"{path.name}: {type(error).__name__}: {error}") from error
    # The loaders carry on without a texture or material file that they cannot get.
    if resolver.problem:
        raise resolver.problem
    if not scene.geometry:
        raise AssetError("unreadable", f"{path.name} holds no geometry")
    if path.suffix.lower() in (".obj", ".ply"):
        for geometry in scene.geometry.values():
            if isinstance(geometry, trimesh.Trimesh):
                linearise_colours(geometry)
    try:
        return scene.export(file_type="glb"), dict(sorted(resolver.digests.items()))
    except Exception as error:
        raise AssetError("conversion", f"{path.name}: {type(error).__name__}: {error}") from error


def _plain_json(name: str, data: bytes) -> bytes:
    """The JSON of a glTF file, checked: the loader answers JSON that it cannot read by reading model.gltf instead."""
    try:
        return json.dumps(json.loads(data)).encode()
    except ValueError as error:
        raise AssetError("unreadable", f"{name}: not JSON: {error}") from error


class FolderResolver(Resolver):
    """Gives a trimesh loader files of one folder and below; remembers digests, and the first problem.

    The problem is kept because loaders swallow what a resolver raises for images and material files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.digests: dict[str, str] = {}
        self.problem: AssetError | None = None

    def get(self, key: str) -> bytes:
        try:
            data = self._read(key)
        except AssetError as error:
            self.problem = self.problem or error
            raise
        return data

    def _read(self, key: str) -> bytes:
        name = key.strip().replace("\\", "/")
        if _SCHEME.match(name) or name.startswith("/"):
            raise AssetError("side_file_refused", f"{key!r} is not a path relative to the asset")
        path = self._inside(name, key)
        if not path.is_file():
            # glTF stores names percent-encoded; OBJ and PLY store them plainly.
            path = self._inside(unquote(name), key)
        if not path.is_file():
            raise AssetError("side_file_missing", f"{key!r} is not beside the asset")
        data = path.read_bytes()
        if path.suffix.lower() in _IMAGES:
            _check_image(key, data)
        self.digests[path.relative_to(self.folder).as_posix()] = hashlib.sha256(data).hexdigest()
        return data

    def _inside(self, name: str, key: str) -> Path:
        path = (self.folder / name).resolve()
        if not path.is_relative_to(self.folder):
            raise AssetError("side_file_refused", f"{key!r} leads out of the asset's folder")
        return path

    def keys(self) -> list[str]:
        return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file())

    def namespaced(self, namespace: str) -> "FolderResolver":
        raise NotImplementedError("formats that open archives or nested folders are not read")

    def write(self, name: str, data: bytes) -> None:
        raise NotImplementedError("side files are only read")


def _check_image(key: str, data: bytes) -> None:
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise AssetError("side_file_unreadable", f"{key!r}: {error}") from error
