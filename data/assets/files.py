"""The files of a folder of meshes: light to import, since every command that knows a recipe may ask for them."""

import os
from pathlib import Path


def files_below(folder: Path) -> list[str]:
    """Paths relative to `folder`, with forward slashes, sorted; hidden ones left out, linked folders not entered."""
    found: list[str] = []
    for directory, subfolders, names in os.walk(folder):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        below = Path(directory).relative_to(folder)
        found += [(below / name).as_posix() for name in names if not name.startswith(".")]
    return sorted(found)
