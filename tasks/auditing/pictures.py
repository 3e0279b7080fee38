"""What a picture is: its digest, and that of its pixels. And what it says of itself, which anybody can write."""

import hashlib
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data.audit.parts import AuditError
from data.images import encode_png
from data.outside_text import parse_json
from data.pictures import PictureError, read_picture
from data.release.marking import mark_png

METADATA_KEY = "syncd"
"""Text chunk of pictures that `syncd sample` made, as in tasks.sample, which loads torch."""


class _Made(BaseModel):
    """What is shown of the text that `syncd sample` writes; it holds more."""

    model_config = ConfigDict(strict=True)
    checkpoint_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    checkpoint_step: int
    base_model: str
    prompt: str
    seed: int
    references_sha256: list[str]


def read_made(path: Path) -> dict[str, Any] | None:
    """What a picture says that `syncd sample` made it from; None for one that says nothing. AuditError if it cannot be
    read, or if its text is not one that `syncd sample` writes."""
    text = _opened(path).info.get(METADATA_KEY)
    if text is None:
        return None
    try:
        made = parse_json(text)
        if not isinstance(made, dict):
            raise TypeError("no JSON object")
        _Made.model_validate(made)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, own['loc']))}: {own['msg']}" for own in error.errors())
        raise AuditError(f"{path}: its {METADATA_KEY} metadata are not those of syncd sample ({wrong})") from error
    except (ValueError, TypeError) as error:
        raise AuditError(f"{path}: its {METADATA_KEY} metadata cannot be read ({error})") from error
    return made


def digests_of(path: Path) -> dict[str, str]:
    """sha256 of the file, and of the same pixels as the dataset would store them: equal pixels give equal bytes, so a
    picture that was only saved anew is found by the second. AuditError if it cannot be read."""
    try:
        again = mark_png(encode_png(np.asarray(_opened(path))))
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise AuditError(f"{path}: its pixels are of a kind that no dataset holds ({error})") from error
    return {"file": hashlib.sha256(path.read_bytes()).hexdigest(), "pixels": hashlib.sha256(again).hexdigest()}


def _opened(path: Path) -> Image.Image:
    try:
        return read_picture(path)
    except PictureError as error:
        raise AuditError(str(error)) from error
