"""Which shards of an index hold given keys, without a look at every key of it."""

from bisect import bisect_right
from collections.abc import Collection
from itertools import accumulate

from data.shards import ShardEntry, ShardIndex


class KeyLookup:
    """Shards by the range of their keys, which ascend within each.

    Ranges of a plan that cuts sorted keys do not overlap: a key then costs one bisection and a look at one shard. Where
    they overlap, as those of sets grouped by object may, a look at each shard whose range holds the key.
    """

    def __init__(self, index: ShardIndex) -> None:
        self._entries = sorted((entry for entry in index.shards if entry.keys), key=lambda entry: entry.keys[0])
        self._firsts = [entry.keys[0] for entry in self._entries]
        self._reach = list(accumulate((entry.keys[-1] for entry in self._entries), max))
        """The last key of all shards up to here: none of them holds a later one."""

    def holding(self, keys: Collection[str]) -> list[ShardEntry]:
        """The shards that hold at least one of the keys, by their first key; keys in no shard are passed over."""
        wanted = set(keys)
        places = {place for key in wanted for place in self._candidates(key)}
        return [self._entries[place] for place in sorted(places) if wanted.intersection(self._entries[place].keys)]

    def _candidates(self, key: str) -> list[int]:
        found, place = [], bisect_right(self._firsts, key) - 1
        while place >= 0 and self._reach[place] >= key:
            if self._entries[place].keys[-1] >= key:
                found.append(place)
            place -= 1
        return found
