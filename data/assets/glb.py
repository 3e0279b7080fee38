"""glTF binary: the checks that a mesh file passes before it travels on."""

import json
import struct
from typing import Any

from data.assets.base import AssetError

_MAGIC, _JSON_CHUNK = b"glTF", 0x4E4F534A


def check_glb(data: bytes, name: str) -> bytes:
    """Return `data` unchanged if it is one complete, self-contained GLB of version 2.

    Raises AssetError: `corrupt` for anything cut short or not GLB, `external_files` if it refers to files beside it
    (they would be lost when it travels alone). The geometry is not looked at.
    """
    external = sorted(uri for uri in _uris(_header(data, name)) if not uri.startswith("data:"))
    if external:
        raise AssetError("external_files", f"{name} refers to {', '.join(external)}; export it with embedded files")
    return data


def _header(data: bytes, name: str) -> dict[str, Any]:
    if len(data) < 20 or data[:4] != _MAGIC:
        raise AssetError("corrupt", f"{name} starts with {data[:4]!r}, not {_MAGIC!r}: not a GLB file")
    version, length, json_length, chunk = struct.unpack_from("<IIII", data, 4)
    if version != 2:
        raise AssetError("corrupt", f"{name} is GLB version {version}; version 2 is read")
    if length > len(data) or 20 + json_length > len(data):
        raise AssetError("corrupt", f"{name} is cut short: {len(data)} bytes of {max(length, 20 + json_length)}")
    if chunk != _JSON_CHUNK:
        raise AssetError("corrupt", f"{name}: its first chunk is {chunk:#x}, not JSON")
    try:
        header = json.loads(data[20 : 20 + json_length])
    except (ValueError, RecursionError) as error:
        raise AssetError("corrupt", f"{name}: its JSON chunk cannot be read: {error}") from error
    if not isinstance(header, dict):
        raise AssetError("corrupt", f"{name}: its JSON chunk is a {type(header).__name__}, not an object")
    return header


def _uris(header: dict[str, Any]) -> list[str]:
    entries = [entry for key in ("buffers", "images") for entry in header.get(key) or []]
    return [str(entry["uri"]) for entry in entries if isinstance(entry, dict) and "uri" in entry]
