"""The ledger of a training against the order that its seed gives: every example of every step, drawn again."""

import random
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, count
from typing import Any

from configs.training import Train
from data.ids import seed_for
from data.pairs import PairOrder
from data.reader import BUFFER, epoch_order
from data.shards import Sample, ShardIndex
from models.training.batches import consumed, draw
from models.training.pairs import Pair

Row = Mapping[str, Any]


def check_draws(
    ledger: Iterable[Row],
    index: ShardIndex,
    samples_of: Mapping[str, Sequence[str]],
    section: Train,
    seed: int,
    tars: Sequence[Mapping[str, Any]] = (),
    skipped: Collection[str] = (),
) -> Iterator[str]:
    """What is wrong with the rows of a ledger; nothing if they are those of a whole training.

    `samples_of`: ids of the kept images of every set, in their order; `tars`: what pairs.json lists; `skipped`: ids of
    the images that skipped.json lists. What was skipped and the key of a text-image pair in its tar are taken as
    recorded, since neither text encoders nor tars are kept.
    """
    usable = {key: [name for name in names if name not in skipped] for key, names in samples_of.items()}
    some = any(usable[key] for entry in index.shards for key in entry.keys)
    order = (key for key in _endless(index, seed) if usable[key]) if some else iter(())
    shard_of = {key: entry.sha256 for entry in index.shards for key in entry.keys}
    ends = list(accumulate(tar["pairs"] for tar in tars))
    pairs = PairOrder(ends[-1], section.pairs_share, seed) if ends else None
    per_step, steps = section.batch * section.accumulate, 0
    for step, row in enumerate(ledger):
        steps += 1
        rng = random.Random(seed_for(seed, "train", f"examples-{step}"))
        wanted = []
        for place in range(per_step):
            pair = None if pairs is None else pairs.at(step * per_step + place)
            if pair is None:
                key = next(order, None)
                if key is None:
                    yield f"ledger: step {step}: a set was trained on, and skipped.json lists every image"
                    return
                record = {"samples": [{"sample_id": name} for name in usable[key]]}
                source: Sample | Pair = Sample(key, record, {})
            else:
                recorded = row["samples"][place].get("pair", "") if place < len(row["samples"]) else ""
                source = Pair(tars[bisect_right(ends, pair)]["sha256"], recorded, {}, {}, {})
            wanted.append(consumed(source, draw(source, section, rng)))
        shards = list(dict.fromkeys(shard_of[own["set"]] for own in wanted if "set" in own))
        yield from _differences(step, row, {"step": step, "shards": shards, "samples": wanted})
    if steps != section.steps:
        yield f"ledger: {steps} steps, train.steps is {section.steps}"


def _endless(index: ShardIndex, seed: int) -> Iterator[str]:
    """Keys in the order in which every process reads them, epoch after epoch."""
    for epoch in count():
        for _, key in epoch_order(index, seed, epoch, rank=0, world_size=1, buffer=BUFFER):
            yield key


def _differences(step: int, row: Row, wanted: Row) -> Iterator[str]:
    for name in ("step", "shards"):
        if row[name] != wanted[name]:
            yield f"ledger: step {step}: {name} {row[name]}, the seed gives {wanted[name]}"
    if len(row["samples"]) != len(wanted["samples"]):
        yield f"ledger: step {step}: {len(row['samples'])} examples, the recipe gives {len(wanted['samples'])}"
        return
    for place, (own, drawn) in enumerate(zip(row["samples"], wanted["samples"], strict=True)):
        if own != drawn:
            yield f"ledger: step {step}, example {place}: {own}, the seed gives {drawn}"
