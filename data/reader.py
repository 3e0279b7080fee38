"""Training reader over the published shards: verified, deterministic, resumable, nothing repeated or left out.

The order of an epoch is computed from `index.json` alone, before any sample is read, so a position in it is all the
state there is to save.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np

from data.ids import seed_for
from data.images import decode_mask, decode_png
from data.shards import Sample, ShardEntry, ShardError, ShardIndex
from data.streaming import AHEAD, ShardSource

BUFFER = 1024
"""Samples that are shuffled among each other, unless a reader is told otherwise."""


@dataclass(frozen=True)
class SetImage:
    """One kept image of a set: uint8 (H, W, 3) RGB, its object mask bool (H, W), and its prompt."""

    sample_id: str
    prompt: str
    image: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class ImageSet:
    """One set as trained on: the images that were kept, in the order of their index."""

    set_id: str
    object_id: str
    images: tuple[SetImage, ...]


def decode_set(sample: Sample) -> ImageSet:
    """Images, masks and prompts of one sample of the shard stage; ShardError if a listed image is not there."""
    images = []
    for entry in sample.record["samples"]:
        index = entry["index"]
        try:
            picture, mask = sample.files[f"{index}.png"], sample.files[f"{index}.mask.png"]
        except KeyError as error:
            raise ShardError(
                f"{sample.key}: its record lists image {index}, but {error} is not in the shard"
            ) from error
        images.append(
            SetImage(
                sample_id=entry["sample_id"],
                prompt=entry["prompt"],
                image=decode_png(picture),
                mask=decode_mask(mask),
            )
        )
    return ImageSet(sample.record["set_id"], sample.record["object_id"], tuple(images))


def epoch_order(
    index: ShardIndex, seed: int, epoch: int, rank: int, world_size: int, buffer: int
) -> list[tuple[int, str]]:
    """(shard number, key) of every sample that `rank` reads in `epoch`, in order.

    Shards are shuffled, the whole run of samples is cut into `world_size` contiguous parts whose sizes differ by at
    most one (so that a rank opens few shards), and each part is shuffled within a moving buffer of `buffer` samples.
    The parts of all ranks together hold every sample exactly once.
    """
    shards = list(range(len(index.shards)))
    random.Random(seed_for(seed, "reader", f"shards-{epoch}")).shuffle(shards)
    everything = [(number, key) for number in shards for key in index.shards[number].keys]
    start, stop = (len(everything) * part // world_size for part in (rank, rank + 1))
    rng = random.Random(seed_for(seed, "reader", f"buffer-{epoch}-{start}-{stop}"))
    held: list[tuple[int, str]] = []
    ordered = []
    for item in everything[start:stop]:
        held.append(item)
        if len(held) > buffer:
            ordered.append(_swap_out(held, rng))
    while held:
        ordered.append(_swap_out(held, rng))
    return ordered


def _swap_out(held: list[tuple[int, str]], rng: random.Random) -> tuple[int, str]:
    chosen = rng.randrange(len(held))
    held[chosen], held[-1] = held[-1], held[chosen]
    return held.pop()


class ShardReader:
    """Iterates over one rank's samples, epoch after epoch; each `for` loop runs to the end of the current epoch.

    Every shard is checked against its digest and key list when it is opened (ShardError names the file). Shards are
    kept in memory only while samples of the buffer still need them. Those of a store are fetched ahead, into the next
    epoch where one ends.
    """

    def __init__(
        self,
        directory: Path | str,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        buffer: int = BUFFER,
        epoch: int = 0,
        records_only: bool = False,
        ahead: int = AHEAD,
    ) -> None:
        """`directory` may be a URL. `records_only` drops the files of samples, verified like the rest, to hold less in
        memory. `ahead` shards are fetched before they are needed, if they are in a store.

        ValueError unless 0 <= rank < world_size and buffer >= 0; ShardError if there is no finished index.
        """
        if not 0 <= rank < world_size:
            raise ValueError(f"rank is {rank} of world_size {world_size}; allowed: 0 to world_size - 1")
        if buffer < 0:
            raise ValueError(f"buffer is {buffer}; allowed: 0 (shards only are shuffled) or more samples")
        self.source = ShardSource(directory, ahead)
        self.index, self.digest = self.source.index, self.source.digest
        self.seed, self.rank, self.world_size, self.buffer = seed, rank, world_size, buffer
        self.records_only = records_only
        self._digests = {key: entry.sha256 for entry in self.index.shards for key in entry.keys}
        self._start(epoch, 0)

    def __len__(self) -> int:
        """Samples this rank reads in the current epoch."""
        return len(self._order)

    def __iter__(self) -> Iterator[Sample]:
        while self.position < len(self._order):
            number, key = self._order[self.position]
            sample = self._shard(number)[key]
            self.position += 1
            if self.position == self._last_use[number]:
                del self._open[number]
            yield sample
        self._start(self.epoch + 1, 0)

    def digest_of(self, key: str) -> str:
        """sha256 of the shard that holds the sample `key`."""
        return self._digests[key]

    def state_dict(self) -> dict[str, Any]:
        return {**self._identity(), "epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> Self:
        """Go on where `state` was taken; ValueError if it belongs to other data, seed or division into ranks."""
        for name, own in self._identity().items():
            if state[name] != own:
                raise ValueError(
                    f"reader state: {name} is {state[name]!r}, but this reader has {own!r}; "
                    "resume with the data and the settings it was saved with"
                )
        self._start(state["epoch"], state["position"])
        return self

    def _identity(self) -> dict[str, Any]:
        names = ("digest", "seed", "rank", "world_size", "buffer")
        return {name: getattr(self, name) for name in names}

    def _start(self, epoch: int, position: int) -> None:
        self.epoch, self.position = epoch, position
        self._order = self._order_of(epoch)
        self._last_use = {number: place + 1 for place, (number, _) in enumerate(self._order)}
        self._open: dict[int, dict[str, Sample]] = {}
        self._next_order: list[tuple[int, str]] | None = None

    def _order_of(self, epoch: int) -> list[tuple[int, str]]:
        return epoch_order(self.index, self.seed, epoch, self.rank, self.world_size, self.buffer)

    def _upcoming(self, opening: int) -> list[ShardEntry]:
        """The shards that will be opened after this one, as many as are fetched ahead."""
        ahead = self.source.ahead
        numbers = list(islice(_first_uses(self._order[self.position :], {opening, *self._open}), ahead))
        if len(numbers) < ahead:
            self._next_order = self._next_order or self._order_of(self.epoch + 1)
            numbers += islice(_first_uses(self._next_order, set(numbers)), ahead - len(numbers))
        return [self.index.shards[number] for number in numbers]

    def _shard(self, number: int) -> dict[str, Sample]:
        if number not in self._open:
            entry = self.index.shards[number]
            samples = {sample.key: sample for sample in self.source.read(entry, self._upcoming(number))}
            if list(samples) != entry.keys:
                raise ShardError(f"{self.source.name}/{entry.name}: its samples are not the keys that index.json lists")
            if self.records_only:
                samples = {key: Sample(key, sample.record, {}) for key, sample in samples.items()}
            self._open[number] = samples
        return self._open[number]


def _first_uses(order: list[tuple[int, str]], known: set[int]) -> Iterator[int]:
    """Shard numbers in the order in which they come first, without the known ones."""
    for number, _ in order:
        if number not in known:
            known.add(number)
            yield number
