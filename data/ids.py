"""Identifiers, seeds and splits that depend on nothing but their inputs."""

import hashlib
import json
import re
from collections.abc import Iterable
from typing import Any

SET_ID = re.compile(r"(.+)-s\d+")
OBJECT_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,119}")


def canonical_json(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces: the one form that is hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest_of(value: Any) -> str:
    """sha256 (hex) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def seed_for(run_seed: int, stage: str, sample_id: str) -> int:
    """Seed of one sample, in [0, 2**63): equal on every machine and in every order of work."""
    digest = hashlib.sha256(f"{run_seed}/{stage}/{sample_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def split_of(object_id: str, eval_share: float, seed: int) -> str:
    """`"eval"` for about `eval_share` of all ids, else `"train"`; fixed by the id and the seed alone."""
    return "eval" if seed_for(seed, "split", object_id) < eval_share * 2**63 else "train"


def held_out_of(object_ids: Iterable[str], eval_share: float, seed: int) -> frozenset[str]:
    """The ids of a dataset that are held out: those that `split_of` gives to evaluation.

    Of a few objects that may be all or none. Then, so that there is something to train on and something to evaluate,
    the id nearest to the other side changes over; a share of 0 or 1 and a single object stay as they are.
    """
    ids = sorted(object_ids)
    chosen = {name for name in ids if split_of(name, eval_share, seed) == "eval"}
    if len(ids) > 1 and 0 < eval_share < 1:
        by_draw = sorted(ids, key=lambda name: seed_for(seed, "split", name))
        if not chosen:
            chosen = {by_draw[0]}
        elif len(chosen) == len(ids):
            chosen.discard(by_draw[-1])
    return frozenset(chosen)


def check_object_id(object_id: str) -> str:
    """Return the id, or raise ValueError: ids become tar member names and must hold no dot or slash."""
    if not OBJECT_ID.fullmatch(object_id):
        raise ValueError(f"object id {object_id!r}; allowed: 1 to 120 of a-z 0-9 _ -, not starting with _ or -")
    return object_id


def set_id_of(object_id: str, number: int) -> str:
    return f"{object_id}-s{number}"


def object_of(set_id: str) -> str:
    """The object of a set; empty for what is no id of a set."""
    found = SET_ID.fullmatch(set_id)
    return found[1] if found else ""


def sample_id_of(set_id: str, index: int) -> str:
    return f"{set_id}-{index}"
