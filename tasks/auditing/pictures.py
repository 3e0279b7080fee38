"""What a picture says of its origin: its digest, that of its pixels, or what `syncd sample` wrote into it."""

import hashlib
import json
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from data.audit.parts import AuditError
from data.images import decode_png, encode_png
from data.release.marking import mark_png

METADATA_KEY = "syncd"
"""Text chunk of pictures that `syncd sample` made, as in tasks.sample, which loads torch."""


def read_made(path: Path) -> dict[str, Any] | None:
    """What a picture of `syncd sample` was made from; None for any other PNG. AuditError if it cannot be read."""
    try:
        with Image.open(path) as image:
            image.load()
            text = image.info.get(METADATA_KEY)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise AuditError(f"{path}: not a picture that can be read ({error})") from error
    if text is None:
        return None
    try:
        made = json.loads(text)
        made["checkpoint_sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise AuditError(f"{path}: its {METADATA_KEY} metadata name no checkpoint ({error!r})") from error
    return made


def digests_of(path: Path) -> dict[str, str]:
    """sha256 of the file, and of the same pixels as the dataset would store them: equal pixels give equal bytes, so a
    picture that was only saved anew is found by the second."""
    data = path.read_bytes()
    again = mark_png(encode_png(decode_png(data)))
    return {"file": hashlib.sha256(data).hexdigest(), "pixels": hashlib.sha256(again).hexdigest()}
