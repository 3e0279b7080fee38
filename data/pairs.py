"""Plain text-image pairs from somebody's WebDataset: what is read of them, what is refused, and when each is drawn.

A sample is a picture (.jpg, .jpeg, .png, .webp) and its caption (.txt, or .json with `caption` or `prompt`).
"""

import math
import random
import re
import tarfile
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from webdataset.tariterators import group_by_keys

from data.assets.files import files_below
from data.ids import seed_for
from data.outside_text import parse_json
from data.pictures import PictureError, decoded, picture_header
from data.shards import Failure
from data.squares import middle_square

PICTURES = ("jpg", "jpeg", "png", "webp")
CAPTION_KEYS = ("caption", "prompt")
MAX_MEMBER_BYTES = 256 << 20
_TOO_LARGE = "too_large"
_META = re.compile(r"__[^/]*__($|/)")
"""Members that describe a tar and belong to no sample, as WebDataset has them."""


class PairsError(Exception):
    """Pairs that nothing can be trained on; the message names the path and the fix."""


@dataclass(frozen=True)
class TextImage:
    """One pair: its key within its tar, its caption with single spaces, and its picture uint8 (H, W, 3)."""

    key: str
    caption: str
    image: np.ndarray


def pair_tars(path: Path) -> list[Path]:
    """The tars below a folder in the order of their names, or the one that `path` is; PairsError if there is none."""
    tars = [path] if path.is_file() else [path / name for name in files_below(path) if name.endswith(".tar")]
    if not tars:
        raise PairsError(f"{path}: holds no .tar; set train.pairs to a folder of WebDataset tars, or to one of them")
    return tars


def read_pairs(tar: Path, height: int, width: int) -> Iterator[TextImage | Failure]:
    """Every sample of a tar in its order: the middle square of its picture at this size, or why it cannot be used.

    Reasons: no_picture, no_caption, bad_caption, unreadable, too_small (the square would be enlarged), too_large (a
    member beyond MAX_MEMBER_BYTES, or with holes). PairsError if the tar itself cannot be read to its end. Nothing is
    ever unpacked to a file: what members are called, and links among them, lead nowhere.
    """
    try:
        for sample in group_by_keys(_members(tar)):
            yield _decode(sample["__key__"], sample, height, width)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise PairsError(f"{tar}: not a WebDataset tar that can be read ({error.args[0]}); get it again") from error


def _members(tar: Path) -> Iterator[dict[str, str | bytes]]:
    """Names and contents of the regular files of a tar, as `group_by_keys` takes them."""
    with tarfile.open(tar, mode="r|*") as stream:
        for member in stream:
            if member.isreg() and not _META.match(member.name):
                # A member with holes may claim any size for a few bytes of tar.
                if member.issparse() or member.size > MAX_MEMBER_BYTES:
                    yield {"__url__": str(tar), "fname": f"{member.name}.{_TOO_LARGE}", "data": b"%d" % member.size}
                else:
                    content = stream.extractfile(member)
                    yield {"__url__": str(tar), "fname": member.name, "data": content.read() if content else b""}
            stream.members = []


def _decode(key: str, members: Mapping[str, bytes], height: int, width: int) -> TextImage | Failure:
    for name in (name for name in members if name.endswith(f".{_TOO_LARGE}")):
        size = members[name].decode()
        return Failure(key=key, reason="too_large", detail=f"{name.removesuffix('.' + _TOO_LARGE)} of {size} bytes")
    found = [members[extension] for extension in PICTURES if extension in members]
    if not found:
        return Failure(key=key, reason="no_picture", detail=f"none of .{', .'.join(PICTURES)}")
    try:
        caption = _caption(members)
    except ValueError as error:
        return Failure(key=key, reason="bad_caption", detail=str(error))
    if not caption:
        return Failure(key=key, reason="no_caption", detail="no text in .txt, nor in .json as caption or prompt")
    try:
        picture = picture_header(found[0], key)
        if min(picture.size) < max(height, width):
            size = f"{picture.width} x {picture.height}, training is at {width} x {height}"
            return Failure(key=key, reason="too_small", detail=size)
        return TextImage(key, caption, middle_square(picture.size).cut(decoded(picture, key), height, width))
    except PictureError as error:
        return Failure(key=key, reason="unreadable", detail=error.problem)


def _caption(members: Mapping[str, bytes]) -> str:
    """The first text that is not blank; ValueError for what is no UTF-8 or no JSON object of strings."""
    texts = [members.get("txt", b"").decode()]
    if "json" in members:
        record = parse_json(members["json"])
        if not isinstance(record, dict):
            raise ValueError(f".json holds a {type(record).__name__}; a caption needs an object with caption or prompt")
        named = {name: record[name] for name in CAPTION_KEYS if record.get(name) is not None}
        for name, value in named.items():
            if not isinstance(value, str):
                raise ValueError(f".json has the {name} {value!r}; it must be text")
        texts += named.values()
    return next((joined for text in texts if (joined := " ".join(text.split()))), "")


class PairOrder:
    """Which training examples are pairs, and which pair each of them is: both follow from the example's number alone.

    Pairs are spread evenly: of the first n examples, n x `share` are pairs, to within one, from a first place that
    the seed draws. They go through all pairs in an order drawn anew in every epoch.
    """

    def __init__(self, pairs: int, share: float, seed: int) -> None:
        self.pairs, self.seed = pairs, seed
        self._share = Fraction(share)
        self._offset = Fraction(random.Random(seed_for(seed, "train", "pairs")).random())
        self._epoch = -1
        self._order = array("Q")

    def at(self, example: int) -> int | None:
        """Number of the pair that the `example`-th example of a run is; None if it is none."""
        drawn = self._before(example)
        if self._before(example + 1) == drawn:
            return None
        epoch, position = divmod(drawn, self.pairs)
        if epoch != self._epoch:
            self._order = array("Q", range(self.pairs))
            random.Random(seed_for(self.seed, "train", f"pairs-{epoch}")).shuffle(self._order)
            self._epoch = epoch
        return self._order[position]

    def _before(self, example: int) -> int:
        return math.floor(example * self._share + self._offset)
