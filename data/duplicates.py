"""Sets of images that show nearly the same as an earlier set, by perceptual hashes."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement, pairwise

import numpy as np

BITS = 64
BLOCK = 4096
"""Hashes that are compared with as many others at a time, so that memory does not grow with a bucket."""


@dataclass(frozen=True)
class Duplicate:
    """`other`: the earlier set; `distance`: bits in which the best matching pair of images differs."""

    other: str
    distance: int


def duplicate_sets(hashes: Mapping[str, Sequence[str]], max_distance: int, min_images: int) -> dict[str, Duplicate]:
    """Sets of which at least `min_images` images lie within `max_distance` bits of images of one earlier set.

    `hashes`: set id -> hashes of its images as 16 hexadecimal digits. Sets are taken in ascending order of id; a
    duplicate is not compared with again, so of a row of alike sets the first stays.
    """
    keys = sorted(hashes)
    owner = np.array([place for place, key in enumerate(keys) for _ in hashes[key]], dtype=np.int64)
    values = np.array([int(digits, 16) for key in keys for digits in hashes[key]], dtype=np.uint64)
    matched: dict[tuple[int, int], dict[int, int]] = defaultdict(dict)
    for first, second, distance in _near_pairs(values, max_distance):
        early, late = sorted((first, second), key=lambda image: owner[image])
        if owner[early] != owner[late]:
            found = matched[int(owner[late]), int(owner[early])]
            found[late] = min(distance, found.get(late, BITS))
    alike: dict[int, list[int]] = defaultdict(list)
    for (late, early), images in matched.items():
        if len(images) >= min_images:
            alike[late].append(early)
    duplicates: dict[str, Duplicate] = {}
    for late in sorted(alike):
        kept = sorted(early for early in alike[late] if keys[early] not in duplicates)
        if kept:
            duplicates[keys[late]] = Duplicate(keys[kept[0]], min(matched[late, kept[0]].values()))
    return duplicates


def _near_pairs(values: np.ndarray, max_distance: int) -> Iterator[tuple[int, int, int]]:
    """Every pair of places whose values (uint64) differ in at most `max_distance` bits, and in how many.

    By the pigeonhole principle two such values agree in one of d + 1 parts of their bits, so it is enough to compare
    within buckets of equal parts. A pair that agrees in several parts is given for the first of them only.
    """
    parts = _parts(max_distance + 1)
    for number, (shift, mask) in enumerate(parts):
        part = values >> np.uint64(shift) & np.uint64(mask)
        order = np.argsort(part, kind="stable")
        edges = np.flatnonzero(np.diff(part[order])) + 1
        for bucket in np.split(order, edges):
            for rows, columns in combinations_with_replacement(_blocks(bucket), 2):
                different = values[rows][:, None] ^ values[columns][None]
                distance = np.bitwise_count(different)
                near = (distance <= max_distance) & (rows[:, None] < columns[None])
                for earlier_shift, earlier_mask in parts[:number]:
                    near &= different >> np.uint64(earlier_shift) & np.uint64(earlier_mask) != 0
                for row, column in np.argwhere(near):
                    yield int(rows[row]), int(columns[column]), int(distance[row, column])


def _blocks(bucket: np.ndarray) -> list[np.ndarray]:
    """Runs of BLOCK places; a bucket is in ascending order, so a later run holds later places only."""
    return [bucket[start : start + BLOCK] for start in range(0, len(bucket), BLOCK)]


def _parts(count: int) -> list[tuple[int, int]]:
    """(shift, mask) of `count` runs of bits that make up a hash."""
    edges = [BITS * number // count for number in range(count + 1)]
    return [(low, (1 << high - low) - 1) for low, high in pairwise(edges)]
