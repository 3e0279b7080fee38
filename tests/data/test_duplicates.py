from random import Random

import pytest

from data.duplicates import BITS, Duplicate, duplicate_sets


def flipped(digits: str, *places: int) -> str:
    value = int(digits, 16)
    for place in places:
        value ^= 1 << place
    return f"{value:016x}"


ONE, TWO, THREE = "0123456789abcdef", "fedcba9876543210", "00ff00ff00ff00ff"


def test_enough_images_near_one_earlier_set_make_a_duplicate() -> None:
    hashes = {
        "a": [ONE, TWO, THREE],
        "b": [flipped(ONE, 3, 60), flipped(TWO, 0), "1111111111111111"],
        "c": [ONE, "2222222222222222"],
    }
    assert duplicate_sets(hashes, 2, 2) == {"b": Duplicate("a", 1)}
    assert duplicate_sets(hashes, 0, 1) == {"c": Duplicate("a", 0)}
    assert duplicate_sets(hashes, 1, 2) == {}


def test_images_near_different_sets_do_not_add_up() -> None:
    assert duplicate_sets({"a": [ONE], "b": [TWO], "c": [ONE, TWO]}, 0, 2) == {}


def test_of_a_row_of_alike_sets_the_first_stays() -> None:
    hashes = {key: [ONE, TWO] for key in ("c", "a", "b")}
    assert duplicate_sets(hashes, 4, 2) == {"b": Duplicate("a", 0), "c": Duplicate("a", 0)}


@pytest.mark.parametrize("distance", [0, 1, 3, 8])
def test_no_pair_is_missed(distance: int) -> None:
    rng = Random(distance)
    base = [f"{rng.getrandbits(BITS):016x}" for _ in range(40)]
    hashes = {f"{place:03d}": [digits] for place, digits in enumerate(base)}
    for place, digits in enumerate(base):
        changed = flipped(digits, *rng.sample(range(BITS), rng.randint(0, distance + 2)))
        hashes[f"{place + 100:03d}"] = [changed]
    found = duplicate_sets(hashes, distance, 1)
    kept: list[str] = []
    for key in sorted(hashes):
        gaps = {other: (int(hashes[key][0], 16) ^ int(hashes[other][0], 16)).bit_count() for other in kept}
        near = sorted(other for other, gap in gaps.items() if gap <= distance)
        assert found.get(key) == (Duplicate(near[0], gaps[near[0]]) if near else None)
        if not near:
            kept.append(key)
