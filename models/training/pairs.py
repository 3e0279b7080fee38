"""Latents and text embeddings of text-image pairs: computed once, kept on disk, one folder per tar digest."""

import json
import logging
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save

from data.digests import DigestCache
from data.ids import canonical_json, digest_of
from data.pairs import PairOrder, PairsError, TextImage, pair_tars, read_pairs
from data.shards import Failure, write_atomic
from models.customizer import Customizer, Features, too_long

CHUNK = 64
"""Pairs that are encoded together, and the rows of one file."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pair:
    """One text-image pair as it is trained on."""

    tar: str
    """sha256 of the tar that it is from."""
    key: str
    """Its name there."""
    target: Features
    text: Features
    no_text: Features
    """Of the empty prompt, for when the text is dropped."""


@dataclass(frozen=True)
class Tar:
    """What was found in one tar."""

    name: str
    sha256: str
    pairs: int
    skipped: dict[str, int]
    """Samples that cannot be used, by reason."""


class PairStore:
    """Features of all pairs of a folder of tars, or of one tar.

    On disk a pair takes its latents and its text embedding; they are read row by row, so that memory stays flat
    however many there are. A tar that is encoded is not read again, one that was interrupted is encoded anew. `folder`
    must belong to one model, one dtype and one size of images.
    """

    def __init__(self, folder: Path, source: Path, digests: DigestCache) -> None:
        self.folder, self.source, self.digests = folder, source, digests
        self.tars: list[Tar] = []
        self._ends: list[int] = []
        self._no_text: Features = {}

    def prepare(self, customizer: Customizer, height: int, width: int) -> None:
        """Encode what is missing, as images of this size; of equal tars one.

        PairsError for a tar that cannot be read, and if there is no pair at all.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        paths: dict[str, Path] = {}
        for path in pair_tars(self.source):
            paths.setdefault(self.digests.digest(path), path)
        self.digests.save()
        self.tars = [self._tar(customizer, sha256, path, height, width) for sha256, path in paths.items()]
        self._ends = list(accumulate(tar.pairs for tar in self.tars))
        self._no_text = customizer.text_features([""])[0]
        if not len(self):
            raise PairsError(
                f"{self.source}: none of its samples can be trained on: {counts(self.skipped)}; name other pairs, or "
                "set neither train.pairs nor train.pairs_share"
            )

    def __len__(self) -> int:
        return self._ends[-1]

    @property
    def skipped(self) -> dict[str, int]:
        """Samples that cannot be used, by reason."""
        return dict(sum((Counter(tar.skipped) for tar in self.tars), Counter()))

    @property
    def sha256(self) -> str:
        """Of all tars together."""
        return digest_of([tar.sha256 for tar in self.tars])

    def pair(self, number: int) -> Pair:
        """By its place among the pairs of all tars."""
        place = bisect_right(self._ends, number)
        tar = self.tars[place]
        chunk, row = divmod(number - (self._ends[place] - tar.pairs), CHUNK)
        parts: dict[str, dict[str, Any]] = {"image": {}, "text": {}}
        with safe_open(self._chunk(tar.sha256, chunk), framework="pt") as opened:
            key = json.loads(opened.metadata()["keys"])[row]
            for name in opened.keys():  # noqa: SIM118 - safe_open is no mapping
                kind, _, part = name.partition("/")
                parts[kind][part] = opened.get_slice(name)[row]
        return Pair(tar.sha256, key, parts["image"], parts["text"], self._no_text)

    def _tar(self, customizer: Customizer, sha256: str, path: Path, height: int, width: int) -> Tar:
        done = self.folder / f"{sha256}.json"
        if not done.exists():
            write_atomic(done, canonical_json(self._encode(customizer, sha256, path, height, width)))
        found = json.loads(done.read_bytes())
        skipped = dict(sorted(Counter(own["reason"] for own in found["skipped"]).items()))
        if skipped:
            total, first = found["pairs"] + len(found["skipped"]), found["skipped"][0]
            log.warning(
                "train: %s: %d of %d pairs skipped: %s; the first is %s (%s: %s), all are listed in %s",
                *(path, len(found["skipped"]), total, counts(skipped)),
                *(first["key"], first["reason"], first["detail"], done),
            )
        name = path.name if path == self.source else path.relative_to(self.source).as_posix()
        return Tar(name, sha256, found["pairs"], skipped)

    def _encode(self, customizer: Customizer, sha256: str, path: Path, height: int, width: int) -> dict[str, Any]:
        """Writes the chunks of a tar; returns how many pairs they hold and what was skipped."""
        (self.folder / sha256).mkdir(exist_ok=True)
        pairs, skipped, held = 0, [], []
        write = partial(self._write, customizer, sha256)
        for sample in read_pairs(path, height, width):
            checked = _check_length(customizer, sample)
            if isinstance(checked, Failure):
                skipped.append(checked.model_dump())
                continue
            held.append(checked)
            pairs += 1
            if len(held) == CHUNK:
                write((pairs - 1) // CHUNK, held)
                held = []
        if held:
            write((pairs - 1) // CHUNK, held)
        return {"pairs": pairs, "skipped": skipped}

    def _write(self, customizer: Customizer, sha256: str, chunk: int, pairs: Sequence[TextImage]) -> None:
        features = {
            "image": customizer.target_features([pair.image for pair in pairs]),
            "text": customizer.text_features([pair.caption for pair in pairs]),
        }
        tensors = {
            f"{kind}/{name}": torch.stack([own[name] for own in rows])
            for kind, rows in features.items()
            for name in rows[0]
        }
        keys = json.dumps([pair.key for pair in pairs])
        write_atomic(self._chunk(sha256, chunk), save(tensors, metadata={"keys": keys}))

    def _chunk(self, sha256: str, chunk: int) -> Path:
        return self.folder / sha256 / f"{chunk:06d}.safetensors"


@dataclass(frozen=True)
class PairMix:
    """The pairs of a run, and which example each of them is."""

    store: PairStore
    order: PairOrder

    def at(self, example: int) -> Pair | None:
        """The pair that the `example`-th example of the run is, from 0; None if that comes from the dataset."""
        number = self.order.at(example)
        return None if number is None else self.store.pair(number)


def _check_length(customizer: Customizer, sample: TextImage | Failure) -> TextImage | Failure:
    """Text encoders of a customization model refuse to cut a caption: one that is too long is skipped."""
    problem = too_long(customizer, sample.caption) if isinstance(sample, TextImage) else None
    return sample if problem is None else Failure(key=sample.key, reason="long_caption", detail=problem)


def counts(skipped: Mapping[str, int]) -> str:
    """Samples that were skipped, by reason, in words."""
    return ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items())) or "there are none"
