"""Files beside a mesh: from its own folder and below, and from nowhere else."""

import hashlib
import re
from pathlib import Path
from urllib.parse import unquote

from data.assets.base import AssetError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


class SideFiles:
    """Reads files of one folder by the names that a mesh calls them; `digests` has the sha256 of each that was read.

    Errors are AssetError: side_file_refused (outside the folder, absolute, a web address, or too many or too large
    ones), side_file_missing, side_file_unreadable (the system does not let it be read).
    """

    def __init__(self, folder: Path, most: int, largest: int) -> None:
        self._folder, self._most, self._largest = folder.resolve(), most, largest
        self._asked = 0
        self.digests: dict[str, str] = {}
        """Path relative to the folder -> sha256 (hex)."""

    def read(self, key: str) -> bytes:
        self._asked += 1
        if self._asked > self._most:
            raise AssetError("side_file_refused", f"the mesh asks for more than {self._most} files")
        name = key.strip().replace("\\", "/")
        if _SCHEME.match(name) or name.startswith("/") or "\0" in name:
            raise AssetError("side_file_refused", f"{key!r} is not a path relative to the asset")
        try:
            path = self._inside(name, key)
            if not path.is_file():
                # glTF stores names percent-encoded; OBJ and PLY store them plainly.
                path = self._inside(unquote(name), key)
            if not path.is_file():
                raise AssetError("side_file_missing", f"{key!r} is not beside the asset")
            if path.stat().st_size > self._largest:
                raise AssetError("side_file_refused", f"{key!r} is larger than {self._largest} bytes")
            data = path.read_bytes()
        except (OSError, ValueError) as error:
            raise AssetError("side_file_unreadable", f"{key[:200]!r}: {error}") from error
        self.digests[path.relative_to(self._folder).as_posix()] = hashlib.sha256(data).hexdigest()
        return data

    def _inside(self, name: str, key: str) -> Path:
        path = (self._folder / name).resolve()
        if not path.is_relative_to(self._folder):
            raise AssetError("side_file_refused", f"{key!r} leads out of the asset's folder")
        return path
