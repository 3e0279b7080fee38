"""Finding the shards of keys: the right ones, whatever the plan, and without a look at all of them."""

import random
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from data.lookup import KeyLookup


@dataclass
class Entry:
    """A shard of an index that counts how often its keys are looked at."""

    own: list[str]
    looks: list[int] = field(default_factory=lambda: [0])

    @property
    def keys(self) -> list[str]:
        self.looks[0] += 1
        return self.own


def lookup_of(shards: list[list[str]]) -> tuple[KeyLookup, list[Entry]]:
    entries = [Entry(keys) for keys in shards]
    return KeyLookup(SimpleNamespace(shards=entries)), entries


def in_order(count: int, size: int = 4) -> list[list[str]]:
    keys = [f"key-{number:06d}" for number in range(count * size)]
    return [keys[start : start + size] for start in range(0, len(keys), size)]


def dealt(count: int) -> list[list[str]]:
    """Ranges that overlap in any way, some shards empty."""
    rng = random.Random(0)
    keys = [f"key-{number:06d}" for number in range(4 * count)]
    rng.shuffle(keys)
    shards = [sorted(keys[start : start + rng.randrange(9)]) for start in range(0, len(keys), 8)]
    return shards


@pytest.mark.parametrize("shards", [in_order(30), dealt(60), [], [[]], [["a", "z"], ["b"], ["c", "y"], ["d"]]])
def test_the_shards_found_are_those_that_a_look_at_every_key_finds(shards: list[list[str]]) -> None:
    lookup, entries = lookup_of(shards)
    everything = sorted({key for keys in shards for key in keys})
    rng = random.Random(1)
    for _ in range(50):
        wanted = {*rng.sample(everything, min(5, len(everything))), "no such key", "", "zzz"}
        expected = [entry.own for entry in entries if wanted.intersection(entry.own)]
        assert sorted(entry.own for entry in lookup.holding(wanted)) == sorted(expected)


def looks(count: int) -> int:
    """Looks at shards while every shard of a stage reads its keys of the input."""
    shards = in_order(count)
    lookup, entries = lookup_of(shards)
    before = sum(entry.looks[0] for entry in entries)
    for keys in shards:
        assert [entry.own for entry in lookup.holding(keys)] == [keys]
    return sum(entry.looks[0] for entry in entries) - before


def test_all_shards_that_read_their_input_look_at_shards_as_many_as_there_are_and_not_their_square() -> None:
    assert looks(400) == 4 * looks(100)
    assert looks(400) <= 10 * 400
