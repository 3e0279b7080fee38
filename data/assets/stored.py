"""A folder of meshes in a store: listed there, each mesh fetched when it is asked for."""

import tempfile
from pathlib import Path

from data.assets.base import AssetCandidate, AssetError, FetchedMesh, SourceError
from data.assets.folder import FORMATS, FolderSource
from data.shards import write_atomic
from data.store import MissingError, Store, StoreError

CAPTIONS = "captions.csv"


class StoredFolderSource(FolderSource):
    """A FolderSource on the files below an s3:// URL, of the same ids, captions and bytes as on a copy of them.

    GLB files hold all that they need. Beside a mesh of another format, everything below its own folder that is no mesh
    is fetched too, since only its loader knows which of it is needed; this once per process.
    """

    def __init__(
        self, url: str, licences: tuple[str, ...], default_licence: str | None = None, captions: Path | None = None
    ) -> None:
        """SourceError if the store cannot be listed."""
        self._copies = tempfile.TemporaryDirectory(prefix="syncd-assets-")
        folder = Path(self._copies.name)
        try:
            self._store = Store(url)
            self._names = list(self._store.list())
            if CAPTIONS in self._names and captions is None:
                write_atomic(folder / CAPTIONS, self._store.read(CAPTIONS))
        except StoreError as error:
            raise SourceError(f"assets.folder: {error}") from error
        if not any(_suffix(name) in FORMATS for name in self._names):
            raise SourceError(f"{url}: no mesh in it or below; put GLB, GLTF, OBJ or PLY files there")
        super().__init__(folder, licences, default_licence, captions)

    def _files(self) -> list[str]:
        return self._names

    def fetch(self, candidate: AssetCandidate) -> FetchedMesh:
        """As from a folder; AssetError `missing`, or `network` if the store did not give it (transient or not)."""
        needed = [candidate.uri]
        if _suffix(candidate.uri) != ".glb":
            beside = candidate.uri.rpartition("/")[0]
            below = f"{beside}/" if beside else ""
            needed += [name for name in self._names if name.startswith(below) and _suffix(name) not in FORMATS]
        try:
            for name in needed:
                self._copy(name)
        except MissingError as error:
            raise AssetError("missing", str(error)) from error
        except StoreError as error:
            raise AssetError("network", str(error), transient=error.transient) from error
        try:
            return super().fetch(candidate)
        finally:
            (self.folder / candidate.uri).unlink()

    def _copy(self, name: str) -> None:
        target = self.folder / name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(target, self._store.read(name))


def _suffix(name: str) -> str:
    return Path(name).suffix.lower()
