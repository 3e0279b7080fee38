"""The mark of a synthetic image: IPTC's digital source type in the XMP packet of a PNG; its pixels stay as they are.

IPTC Photo Metadata Standard, property Digital Source Type (XMP: Iptc4xmpExt:DigitalSourceType). XMP lies in an iTXt
chunk with the keyword XML:com.adobe.xmp (XMP specification, part 3). The chunk is put into the finished file: no other
byte changes, and without it the file is the one that was generated.

There is no watermark in the pixels: the images are trained on, and a model learns what all of them have in common. The
libraries that make one also need OpenCV or torchvision, or fetch weights when they are first used.
"""

import struct
import zlib
from collections.abc import Iterator
from xml.etree import ElementTree

TRAINED_ALGORITHMIC_MEDIA = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's term for media made by a model that was trained on sampled content."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_KEYWORD = b"XML:com.adobe.xmp"
_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_PACKET = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{_RDF}">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="{_IPTC}">
<Iptc4xmpExt:DigitalSourceType>{TRAINED_ALGORITHMIC_MEDIA}</Iptc4xmpExt:DigitalSourceType>
</rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="r"?>"""


def mark_png(data: bytes) -> bytes:
    """The PNG with the mark behind its header; ValueError if it is no PNG or carries XMP already."""
    chunks = list(_chunks(data))
    if any(_is_xmp(kind, body) for kind, body in chunks):
        raise ValueError("the picture carries XMP already; mark what the generator made, once")
    body = _KEYWORD + b"\0\0\0\0\0" + _PACKET.encode()  # neither compressed nor in a language
    return b"".join([_SIGNATURE, _chunk(*chunks[0]), _chunk(b"iTXt", body), *(_chunk(*item) for item in chunks[1:])])


def unmarked(data: bytes) -> bytes:
    """The PNG without its XMP: of a marked picture, the file that the generator made."""
    return b"".join([_SIGNATURE, *(_chunk(kind, body) for kind, body in _chunks(data) if not _is_xmp(kind, body))])


def source_type(data: bytes) -> str | None:
    """The digital source type that a PNG states, None if it states none; ValueError for a broken file or packet."""
    for kind, body in _chunks(data):
        if not _is_xmp(kind, body):
            continue
        if body[len(_KEYWORD) + 1] != 0:
            raise ValueError("the XMP packet is compressed, which XMP in PNG must not be")
        packet = body[len(_KEYWORD) + 3 :].split(b"\0", 2)[2]
        try:
            root = ElementTree.fromstring(packet)
        except ElementTree.ParseError as error:
            raise ValueError(f"the XMP packet is no XML: {error}") from error
        name = f"{{{_IPTC}}}DigitalSourceType"  # an element or, for the same meaning, an attribute
        return root.findtext(f".//{name}") or next(
            (item.get(name) for item in root.iter() if name in item.attrib), None
        )
    return None


def _is_xmp(kind: bytes, body: bytes) -> bool:
    return kind == b"iTXt" and body.startswith(_KEYWORD + b"\0")


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Type and content of every chunk; ValueError for what is not a whole PNG."""
    if not data.startswith(_SIGNATURE):
        raise ValueError("not a PNG file")
    place = len(_SIGNATURE)
    while place < len(data):
        length, kind = struct.unpack(">I4s", data[place : place + 8].ljust(8, b"\0"))
        body, check = data[place + 8 : place + 8 + length], data[place + 8 + length : place + 12 + length]
        if check != struct.pack(">I", zlib.crc32(kind + body)):
            raise ValueError(f"the PNG is cut short or changed in its chunk {kind.decode('latin-1')}")
        yield kind, body
        place += 12 + length
