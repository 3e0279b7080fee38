"""The mark of synthetic images: read back by an XML parser of its own and by Pillow; the pixels stay as they are."""

import io
import xml.dom.minidom

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from data.images import decode_png, encode_png
from data.release.marking import TRAINED_ALGORITHMIC_MEDIA, mark_png, source_type, unmarked

IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"


def picture(channels: int = 3) -> bytes:
    shape = (9, 7, 3)[: 3 if channels == 3 else 2]
    return encode_png(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_mark_changes_no_pixel_and_comes_off_whole(channels: int) -> None:
    data = picture(channels)
    marked = mark_png(data)
    assert marked != data and mark_png(data) == marked
    assert np.array_equal(decode_png(marked), decode_png(data))
    assert unmarked(marked) == unmarked(data) == data


def test_other_readers_find_iptcs_term_in_the_xmp_packet() -> None:
    with Image.open(io.BytesIO(mark_png(picture()))) as image:
        image.load()
        packet = image.info["XML:com.adobe.xmp"]
    (element,) = xml.dom.minidom.parseString(packet.encode()).getElementsByTagNameNS(IPTC, "DigitalSourceType")
    assert element.firstChild.data == "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    assert element.parentNode.localName == "Description" and element.parentNode.getAttribute("rdf:about") == ""


def test_the_mark_is_read_back() -> None:
    assert source_type(mark_png(picture())) == TRAINED_ALGORITHMIC_MEDIA
    assert source_type(picture()) is None


def test_a_source_type_written_as_an_attribute_is_read_too() -> None:
    data = mark_png(picture())
    at = data.index(b"<rdf:Description")
    end = data.index(b"</rdf:Description>")
    attribute = b'<rdf:Description rdf:about="" xmlns:q="%s" q:DigitalSourceType="other">' % IPTC.encode()
    packet = data[data.index(b"<?xpacket begin") : at] + attribute + data[end : data.index(b'<?xpacket end="r"?>')]
    info, stream = PngInfo(), io.BytesIO()
    info.add_itxt("XML:com.adobe.xmp", packet.decode())
    Image.open(io.BytesIO(picture())).save(stream, "PNG", pnginfo=info)
    assert source_type(stream.getvalue()) == "other"
    with pytest.raises(ValueError, match="carries XMP already"):
        mark_png(stream.getvalue())


def test_what_is_no_whole_png_is_refused() -> None:
    data = picture()
    with pytest.raises(ValueError, match="not a PNG"):
        mark_png(b"JFIF" + data)
    for broken in (data[:-5], data[:40] + bytes([data[40] ^ 1]) + data[41:]):
        with pytest.raises(ValueError, match="cut short or changed"):
            mark_png(broken)
