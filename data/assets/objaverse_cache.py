"""Files of Objaverse 1.0 through the `objaverse` package (0.1.7): its cache folder first, the network only if allowed.

Layout of the cache, as the package keeps it:

    CACHE/hf-objaverse-v1/object-paths.json.gz        uid -> glbs/NNN-NNN/UID.glb
    CACHE/hf-objaverse-v1/lvis-annotations.json.gz    LVIS category -> uids
    CACHE/hf-objaverse-v1/metadata/NNN-NNN.json.gz    uid -> annotation, one file per folder of meshes
    CACHE/hf-objaverse-v1/glbs/NNN-NNN/UID.glb
"""

import gzip
import hashlib
import http.client
import json
import os
import re
import socket
import threading
import urllib.error
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loguru import logger
from objaverse.xl.sketchfab import SketchfabDownloader

from data.assets.base import AssetError, SourceError
from data.sandbox.client import check
from data.shards import write_atomic

FOLDER = "hf-objaverse-v1"
OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
_TIMEOUT_S = 60.0
_METADATA_FILES_AT_ONCE = 16
_OBJECT_PATH = re.compile(r"glbs/[0-9A-Za-z-]+/([0-9A-Za-z_-]+)\.glb")
_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_MISSING_STATUS = frozenset({404, 410})

# What gzip and json raise for a file that is cut short or not theirs.
_DAMAGED = (OSError, EOFError, zlib.error, ValueError)

logger.disable("objaverse")


def default_cache() -> Path:
    """The package's own default, ~/.objaverse."""
    return Path.home() / ".objaverse"


def offline_by_environment() -> str | None:
    """The first variable that switches the Hugging Face libraries offline and is set, or None."""
    switched_on = [name for name in OFFLINE_VARIABLES if os.environ.get(name, "").lower() in ("1", "true", "yes", "on")]
    return switched_on[0] if switched_on else None


class ObjaverseCache:
    """Reads the cache folder, and fills it while `offline` is false.

    With `offline`, or with one of OFFLINE_VARIABLES set, no connection is ever tried.
    """

    def __init__(self, folder: Path, offline: bool) -> None:
        self.folder = folder.expanduser().absolute()
        variable = offline_by_environment()
        self.offline_because = "offline is true" if offline else f"{variable} is set" if variable else None

    def object_paths(self) -> dict[str, str]:
        """uid -> path of the mesh inside the dataset. Raises SourceError."""
        paths = self._listing(["object-paths.json.gz"], SketchfabDownloader._get_object_paths)
        return {uid: path for uid, path in paths.items() if _OBJECT_PATH.fullmatch(path)}

    def lvis(self) -> dict[str, list[str]]:
        """LVIS category -> uids. Raises SourceError."""
        return self._listing(["lvis-annotations.json.gz"], SketchfabDownloader.get_lvis_annotations)

    def annotations(self, paths: Mapping[str, str], keep: Collection[str]) -> dict[str, dict[str, Any]]:
        """uid -> the annotation fields named in `keep`, for the uids (and mesh paths) given. Raises SourceError.

        Works through the metadata files a few at a time: all annotations of Objaverse at once take gigabytes.
        """
        by_file: dict[str, list[str]] = {}
        for uid in sorted(paths):
            by_file.setdefault(paths[uid].split("/")[1], []).append(uid)
        names = sorted(by_file)
        self._require([f"metadata/{name}.json.gz" for name in names])
        found: dict[str, dict[str, Any]] = {}
        for start in range(0, len(names), _METADATA_FILES_AT_ONCE):
            part = names[start : start + _METADATA_FILES_AT_ONCE]
            uids = [uid for name in part for uid in by_file[name]]
            loaded = self._listing(
                [f"metadata/{name}.json.gz" for name in part],
                lambda download_dir, uids=uids: SketchfabDownloader.get_full_annotations(uids, download_dir),
            )
            found.update({uid: {key: entry.get(key) for key in keep} for uid, entry in loaded.items()})
        return found

    def mesh(self, uid: str, object_path: str, expected_sha256: str | None) -> tuple[bytes, str]:
        """Bytes and sha256 of a mesh: out of the cache, else from the network into the cache.

        Raises AssetError: missing, modified (not `expected_sha256`), corrupt, external_files, offline, http, network.
        Only a file that passes every check enters the cache, whole.
        """
        if not _OBJECT_PATH.fullmatch(object_path):
            raise AssetError("missing", f"{object_path!r} is not a path of a mesh in Objaverse")
        path = self.folder / FOLDER / object_path
        cached = path.exists()
        if cached:
            data = path.read_bytes()
            sha256 = hashlib.sha256(data).hexdigest()
        else:
            data, sha256 = self._download(uid, object_path, expected_sha256)
        if expected_sha256 not in (None, sha256):
            raise AssetError(
                "modified",
                f"{object_path}: sha256 {sha256}, expected {expected_sha256}; delete it from the cache to have it "
                "downloaded again",
            )
        check(data, object_path)
        if not cached:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, data)
        return data, sha256

    def _download(self, uid: str, object_path: str, expected_sha256: str | None) -> tuple[bytes, str]:
        """The package calls back "found" or "modified", as the digest compares; both are delivered from here."""
        if self.offline_because:
            raise AssetError("offline", f"{object_path} is not in the cache, and {self.offline_because}; {FILL_HINT}")
        delivered: list[tuple[bytes, str]] = []

        def on_found(local_path: str, sha256: str, **_: Any) -> None:
            delivered.append((Path(local_path).read_bytes(), sha256))

        def on_modified(local_path: str, new_sha256: str, **_: Any) -> None:
            delivered.append((Path(local_path).read_bytes(), new_sha256))

        try:
            with _socket_timeout(_TIMEOUT_S):
                SketchfabDownloader._download_object(
                    file_identifier=SketchfabDownloader.uid_to_file_identifier(uid),
                    hf_object_path=object_path,
                    download_dir=None,
                    expected_sha256=expected_sha256 or "",
                    handle_found_object=on_found,
                    handle_modified_object=on_modified,
                )
        except urllib.error.HTTPError as error:
            if error.code in _MISSING_STATUS:
                raise AssetError("missing", f"{error.url}: HTTP {error.code}") from error
            raise AssetError("http", f"{error.url}: HTTP {error.code}", error.code in _TRANSIENT_STATUS) from error
        except (OSError, http.client.HTTPException) as error:
            raise AssetError("network", f"{object_path}: {type(error).__name__}: {error}", transient=True) from error
        return delivered[0]

    def _listing(self, files: list[str], load: Callable[..., dict[str, Any]]) -> dict[str, Any]:
        self._require(files)
        absent = [path for path in self._paths(files) if not path.exists()]
        try:
            with _socket_timeout(_TIMEOUT_S):
                return load(download_dir=str(self.folder))
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            for path in absent:
                # The package leaves an empty file behind when the download of the LVIS list fails.
                if path.exists() and path.stat().st_size == 0:
                    path.unlink()
            raise SourceError(
                f"Objaverse: {absent[0].name if absent else files[0]} could not be downloaded: {error}; try again, or "
                f"fill {self.folder} elsewhere and copy it here: {FILL_HINT}"
            ) from error
        except _DAMAGED as error:
            damaged = [str(path) for path in self._paths(files) if path.exists() and not _is_gzipped_json(path)]
            raise SourceError(
                f"Objaverse: {', '.join(damaged) or self.folder} cannot be read ({type(error).__name__}: {error}); "
                f"delete it, so that it is downloaded again"
            ) from error

    def _require(self, files: list[str]) -> None:
        absent = [path for path in self._paths(files) if not path.exists()]
        if absent and self.offline_because:
            more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
            raise SourceError(
                f"Objaverse: {', '.join(map(str, absent[:3]))}{more} missing, and {self.offline_because}; {FILL_HINT}"
            )

    def _paths(self, files: list[str]) -> list[Path]:
        return [self.folder / FOLDER / file for file in files]


def _is_gzipped_json(path: Path) -> bool:
    try:
        json.loads(gzip.decompress(path.read_bytes()))
    except _DAMAGED:
        return False
    return True


FILL_HINT = (
    "on a machine with network, `python -m data.assets.fill_objaverse --cache FOLDER [--uids FILE] [--meshes]` fills a "
    "cache folder; copy it here and name it as objaverse_cache in the runtime, or set offline: false there"
)

_timeout_lock = threading.Lock()
_timeout_users = 0
_timeout_before: float | None = None


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """Default socket timeout while at least one thread is inside: the package opens its connections without one."""
    global _timeout_users, _timeout_before
    with _timeout_lock:
        if _timeout_users == 0:
            _timeout_before = socket.getdefaulttimeout()
            socket.setdefaulttimeout(seconds)
        _timeout_users += 1
    try:
        yield
    finally:
        with _timeout_lock:
            _timeout_users -= 1
            if _timeout_users == 0:
                socket.setdefaulttimeout(_timeout_before)
