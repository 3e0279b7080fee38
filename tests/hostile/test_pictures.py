"""Pictures from outside: what is refused is refused by its header, with its name, before memory is taken for it."""

import io
import struct
import tarfile
import tracemalloc
import zlib
from pathlib import Path

import bombs
import numpy as np
import pytest
from PIL import Image

from data.pairs import read_pairs
from data.pictures import MAX_PIXELS, PictureError, prepare_reference, read_picture
from data.shards import Failure
from tasks.sample import read_provenance


def encoded(form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (200, 100, 0)).save(buffer, format=form, **options)
    return buffer.getvalue()


def text_chunk_bomb() -> bytes:
    """A PNG with a compressed text of 200 MB."""
    packed = b"syncd\0\0" + zlib.compress(bytes(200_000_000), 9)
    chunk = struct.pack(">I", len(packed)) + b"zTXt" + packed + struct.pack(">I", zlib.crc32(b"zTXt" + packed))
    whole = bombs.zeros_png(8, 8)
    return whole[:33] + chunk + whole[33:]


REFUSED = {
    "65,535 x 65,535": (bombs.png_header(65535, 65535), "far more than the 178956970 pixels"),
    "one pixel row too many": (bombs.png_header(MAX_PIXELS, 2), "pixels; at most"),
    "beyond what Pillow opens": (bombs.png_header(2**31 - 1, 2**31 - 1), "far more than the 178956970 pixels"),
    "no size": (bombs.png_header(0, 5), "a picture"),
    "a text of 200 MB": (text_chunk_bomb(), "cannot be read: ValueError"),
    "a TIFF": (encoded("TIFF"), "allowed: PNG, JPEG, WEBP"),
    "a GIF": (encoded("GIF"), "allowed: PNG, JPEG, WEBP"),
    "a BMP": (encoded("BMP"), "allowed: PNG, JPEG, WEBP"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "allowed: PNG, JPEG, WEBP"),
    "an SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "allowed: PNG, JPEG, WEBP"),
    "a JPEG cut short": (encoded("JPEG")[:-60], "cannot be read"),
    "a PNG cut short": (bombs.zeros_png(64, 64)[:-40], "cannot be read"),
    "a WebP cut short": (encoded("WEBP")[:30], "read"),
    "nothing": (b"", "not a picture"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_picture_to_read_is_refused_by_name(tmp_path: Path, name: str) -> None:
    data, expected = REFUSED[name]
    (tmp_path / "mug.png").write_bytes(data)
    tracemalloc.start()
    with pytest.raises(PictureError, match=r"mug\.png") as caught:
        prepare_reference(tmp_path / "mug.png", None, 8, 8)
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert expected in str(caught.value)
    assert taken < 80_000_000


def test_the_first_frame_of_several_is_read(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    for form in ("WEBP", "PNG"):
        buffer = io.BytesIO()
        frames[0].save(buffer, format=form, save_all=True, append_images=frames[1:], duration=100, lossless=True)
        assert np.asarray(read_picture(buffer.getvalue(), "x").convert("RGB"))[8, 8].tolist() == [255, 0, 0]


def test_metadata_of_a_picture_that_is_none_of_ours_is_an_error_with_its_name(tmp_path: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    for text in ("[" * 100_000, "{", "[]", "{}", '{"settings": 3}'):
        info = PngInfo()
        info.add_itxt("syncd", text)
        Image.new("RGB", (4, 4)).save(tmp_path / "a.png", pnginfo=info)
        with pytest.raises(ValueError, match=r"a\.png: its syncd metadata"):
            read_provenance(tmp_path / "a.png")


def member(name: str, **fields: object) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(header, field, value)
    return header


def test_a_tar_of_pairs_reaches_no_file_and_takes_no_memory_for_holes(tmp_path: Path) -> None:
    good = {"z.png": encoded("PNG"), "z.txt": b"a mug"}
    secret = tmp_path / "secret.png"
    secret.write_bytes(encoded("PNG"))
    holes = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.name": "h.png"}
    holes |= {"GNU.sparse.size": str(2**40), "GNU.sparse.numblocks": "1", "GNU.sparse.map": "0,512"}
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(member("l.png", type=tarfile.SYMTYPE, linkname=str(secret)))
        tar.addfile(member("m.png", type=tarfile.LNKTYPE, linkname="../secret.png"))
        tar.addfile(member("d.png", type=tarfile.CHRTYPE, devmajor=1, devminor=5))
        for name, data in {"../../out/p.png": encoded("PNG"), "../../out/p.txt": b"a hat"}.items():
            tar.addfile(member(name, size=len(data)), io.BytesIO(data))
        tar.addfile(member("h.png", size=512, pax_headers=holes), io.BytesIO(bytes(512)))
        tar.addfile(member("h.txt", size=5), io.BytesIO(b"holes"))
        deep = b'{"caption":' + b"[" * 100_000
        for name, data in {"j.png": encoded("PNG"), "j.json": deep, **good}.items():
            tar.addfile(member(name, size=len(data)), io.BytesIO(data))
    before = sorted(tmp_path.rglob("*"))
    found = list(read_pairs(tmp_path / "x.tar", 8, 8))
    told = {one.key: one.reason if isinstance(one, Failure) else one.caption for one in found}
    assert told == {"../../out/p": "a hat", "h": "too_large", "j": "bad_caption", "z": "a mug"}
    assert sorted(tmp_path.rglob("*")) == before
