"""sha256 of files that are not ours and may be many and large: each is read once, as long as it is not touched."""

import json
from pathlib import Path
from typing import Self

from data.ids import canonical_json
from data.shards import sha256_file, write_atomic


class DigestCache:
    """sha256 by path, size and time of change, kept in the file `path`. A damaged file knows nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known = _known(path)
        self.used: dict[str, str] = {}

    @classmethod
    def of_workspace(cls, workspace: Path) -> Self:
        """The one of the files that a workspace's recipe names."""
        return cls(workspace / "artifacts" / ".work" / "digests.json")

    def digest(self, path: Path) -> str:
        stat = path.stat()
        key = f"{path}:{stat.st_size}:{stat.st_mtime_ns}"
        self.used[key] = self.known.get(key) or sha256_file(path)
        return self.used[key]

    def save(self) -> None:
        """Keep what was asked for, in place of what was known of the same files."""
        asked = {_path_of(key) for key in self.used}
        kept = {key: digest for key, digest in self.known.items() if _path_of(key) not in asked} | self.used
        if kept != self.known:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self.path, canonical_json(kept))


def _known(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _path_of(key: str) -> str:
    return key.rsplit(":", 2)[0]
