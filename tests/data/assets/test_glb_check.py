import json
import struct

import pytest
import trimesh

from data.assets.base import AssetError
from data.assets.glb import check_glb


def glb(header: object, version: int = 2) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 4)
    return struct.pack("<4sIIII", b"glTF", version, 20 + len(text), len(text), 0x4E4F534A) + text


def test_a_written_glb_passes_unchanged() -> None:
    data = trimesh.creation.box().export(file_type="glb")
    assert check_glb(data, "box.glb") is data


def test_embedded_data_addresses_pass() -> None:
    data = glb({"asset": {"version": "2.0"}, "images": [{"uri": "data:image/png;base64,AA=="}]})
    assert check_glb(data, "x") is data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a GLB file"),
        (b"<html>Service unavailable</html>", "starts with b'<htm'"),
        (glb({"asset": {}})[:-2], "cut short"),
        (glb({}, version=1), "version 1"),
        (glb(b"{not json"), "JSON chunk cannot be read"),
        (glb([1]), "list, not an object"),
    ],
)
def test_damaged_files_are_corrupt(data: bytes, message: str) -> None:
    with pytest.raises(AssetError, match=message) as caught:
        check_glb(data, "x.glb")
    assert caught.value.reason == "corrupt" and not caught.value.transient


@pytest.mark.parametrize("key", ["buffers", "images"])
def test_a_glb_that_needs_files_beside_it_is_refused_by_name(key: str) -> None:
    with pytest.raises(AssetError, match=r"refers to wood\.png") as caught:
        check_glb(glb({key: [{"uri": "wood.png"}]}), "x.glb")
    assert caught.value.reason == "external_files"
