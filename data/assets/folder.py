"""A folder of meshes as an asset source: GLB, GLTF, OBJ and PLY, with an optional captions.csv."""

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection
from functools import cached_property
from pathlib import Path

from data.assets.base import (
    AssetCandidate,
    AssetError,
    AssetListing,
    FetchedMesh,
    RejectedAsset,
    SourceError,
    listing_of,
)
from data.assets.captions import CaptionRow, caption_from_name, head_noun, read_folder_captions
from data.assets.files import files_below
from data.assets.licences import UNKNOWN, allow_list, normalise
from data.sandbox.client import check, convert

FORMATS = (".glb", ".gltf", ".obj", ".ply")
_OTHER_MESHES = (".3ds", ".abc", ".blend", ".dae", ".fbx", ".off", ".stl", ".usd", ".usda", ".usdc", ".usdz", ".x3d")
_SLUG_LENGTH = 80


class FolderSource:
    """Meshes below `folder`, at any depth; hidden files and folders are passed over.

    Caption, category, licence and whom to credit come from `captions` (default: captions.csv in the folder, if there
    is one). With such a file, a mesh without a caption in it is rejected. Without one, the caption is made from the
    file name (`Toy_duck.glb` -> "a toy duck") and the category is the caption's noun. A licence that nobody names is
    `default_licence`, or else unknown, which passes only if `licences` holds LicenseRef-unknown.

    Ids are slugs of the path below the folder without its ending, so they survive moving the folder. Meshes whose
    slugs collide (`duck.glb` and `Duck.obj`) all get eight hexadecimal digits of their path's sha256 appended.
    """

    name = "folder"

    def __init__(
        self,
        folder: Path,
        licences: Collection[str],
        default_licence: str | None = None,
        captions: Path | None = None,
    ) -> None:
        if not folder.is_dir():
            raise SourceError(f"{folder}: no such folder; set assets.folder to a folder of GLB, GLTF, OBJ or PLY files")
        self.folder = folder
        self._allowed = allow_list(licences)
        self._default_licence = normalise(default_licence) if default_licence else UNKNOWN
        beside = folder / "captions.csv"
        self._captions = captions or (beside if beside.exists() else None)

    def candidates(self) -> list[AssetCandidate]:
        return list(self._listing.accepted)

    def rejected(self) -> list[RejectedAsset]:
        return list(self._listing.rejected)

    @cached_property
    def _listing(self) -> AssetListing:
        files = self._files()
        meshes = [file for file in files if _suffix(file) in FORMATS]
        if not meshes:
            raise SourceError(f"{self.folder}: no mesh in it or below; put GLB, GLTF, OBJ or PLY files there")
        rows = read_folder_captions(self._captions, meshes) if self._captions else None
        ids = object_ids(meshes)
        judged = [self._judge(ids[file], file, rows) for file in meshes]
        others = [
            RejectedAsset(_slug(file), "unsupported_format", f"{_suffix(file)}; read: {', '.join(FORMATS)}", file)
            for file in files
            if _suffix(file) in _OTHER_MESHES
        ]
        accepted = [item for item in judged if isinstance(item, AssetCandidate)]
        return listing_of(accepted, others + [item for item in judged if isinstance(item, RejectedAsset)])

    def _files(self) -> list[str]:
        return files_below(self.folder)

    def _judge(self, object_id: str, file: str, rows: dict[str, CaptionRow] | None) -> AssetCandidate | RejectedAsset:
        if not (self.folder / file).resolve().is_relative_to(self.folder.resolve()):
            return RejectedAsset(object_id, "outside_folder", "a link that leads out of the folder", file)
        row = rows.get(file) if rows is not None else None
        licence = (row.licence if row else "") or self._default_licence
        if licence not in self._allowed:
            if licence == UNKNOWN:
                detail = f"set assets.default_licence, name it in captions.csv, or allow {UNKNOWN}"
                return RejectedAsset(object_id, "licence_unknown", detail, file)
            detail = f"{licence}; allowed: {', '.join(sorted(self._allowed))}"
            return RejectedAsset(object_id, "licence_not_allowed", detail, file)
        if rows is not None and row is None:
            return RejectedAsset(object_id, "no_caption", f"{self._captions.name} has no row for it", file)
        caption = row.caption if row else caption_from_name(Path(file).stem)
        if not caption:
            detail = f"line {row.line} of {self._captions.name}: empty" if row else "no word in its file name"
            return RejectedAsset(object_id, "no_caption", detail, file)
        category = (row.category if row else "") or head_noun(caption)
        return AssetCandidate(
            object_id, category, caption, licence, file, {"file": file, **(row.credit if row else {})}
        )

    def fetch(self, candidate: AssetCandidate) -> FetchedMesh:
        """The file as it is if it is GLB, else converted. Raises AssetError (reasons: see its docstring)."""
        path = self.folder / candidate.uri
        if not path.resolve().is_relative_to(self.folder.resolve()):
            raise AssetError("missing", f"{candidate.uri!r} leads out of {self.folder}")
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise AssetError("missing", f"{candidate.uri} is no longer in {self.folder}") from error
        except OSError as error:
            raise AssetError("unreadable", f"{candidate.uri}: {error.strerror}") from error
        suffix = _suffix(candidate.uri)
        if suffix == ".glb":
            mesh, side_files = check(data, candidate.uri), {}
        else:
            mesh, side_files = convert(path, data)
        return FetchedMesh(mesh, hashlib.sha256(data).hexdigest(), "first_seen", suffix[1:], side_files)


def object_ids(files: Collection[str]) -> dict[str, str]:
    """file -> object id, for paths relative to the folder; depends on nothing but the paths."""
    slugs = {file: _slug(file) for file in files}
    shared = Counter(slugs.values())
    return {
        file: slug if slug and shared[slug] == 1 else f"{slug or 'asset'}-{_path_digest(file)}"
        for file, slug in slugs.items()
    }


def _path_digest(file: str) -> str:
    return hashlib.sha256(unicodedata.normalize("NFC", file).encode()).hexdigest()[:8]


def _slug(file: str) -> str:
    plain = unicodedata.normalize("NFKD", os.path.splitext(file)[0]).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:_SLUG_LENGTH].rstrip("-")


def _suffix(file: str) -> str:
    return os.path.splitext(file)[1].lower()
