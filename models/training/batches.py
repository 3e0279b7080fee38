"""What makes up a batch: sets and text-image pairs, their stored features, and what the ledger says of them."""

import random
from collections.abc import Iterator
from typing import Any

from configs.training import Train
from data.shards import Sample
from models.customizer import TrainingBatch
from models.training.examples import Example, draw_example, draw_pair
from models.training.features import FeatureStore
from models.training.pairs import Pair, PairMix

Row = dict[str, Any]


def pick(samples: Iterator[Sample], pairs: PairMix | None, first: int, count: int) -> list[Sample | Pair]:
    """What the next `count` examples come from, of which the first is number `first` of the run: a set or a pair.

    Which examples are pairs, and which ones, follows from their numbers; the rest take the next sets.
    """
    picked = []
    for number in range(first, first + count):
        pair = None if pairs is None else pairs.at(number)
        picked.append(next(samples) if pair is None else pair)
    return picked


def draw(picked: Sample | Pair, section: Train, rng: random.Random) -> Example:
    if isinstance(picked, Pair):
        return draw_pair(section, rng)
    return draw_example(len(picked.record["samples"]), section, rng)


def make_batch(features: FeatureStore, picked: list[Sample | Pair], examples: list[Example]) -> TrainingBatch:
    """Features of targets, texts and references; dropped text is the empty prompt, dropped references are none."""
    targets, texts, references = [], [], []
    for source, example in zip(picked, examples, strict=True):
        if isinstance(source, Pair):
            targets.append(source.target)
            texts.append(source.no_text if example.drop_text else source.text)
            references.append([])
            continue
        images = source.record["samples"]
        target = images[example.target]
        targets.append(features.image(source.key, target["sample_id"]))
        texts.append(features.text(source.key, "" if example.drop_text else target["prompt"]))
        kept = () if example.drop_references else example.references
        names = [images[own.place]["sample_id"] for own in kept]
        shown = zip(names, kept, strict=True)
        references.append([features.image(source.key, name, own.flipped, own.crop) for name, own in shown])
    return TrainingBatch(targets, texts, references)


def consumed(picked: Sample | Pair, example: Example) -> Row:
    """What a training example took, for the ledger: what was dropped is named as dropped.

    Of a set `set`, `target`, `references`, `flipped`, and `crops` where crops are kept; of a pair `tar` (sha256) and
    `pair` (its key there); of both `text`.
    """
    text = not example.drop_text
    if isinstance(picked, Pair):
        return {"tar": picked.tar, "pair": picked.key, "text": text}
    images = picked.record["samples"]
    kept = () if example.drop_references else example.references
    crops = [own.crop for own in kept if own.crop is not None]
    return {
        "set": picked.key,
        "target": images[example.target]["sample_id"],
        "references": [images[own.place]["sample_id"] for own in kept],
        "flipped": [own.flipped for own in kept],
        **({"crops": crops} if crops else {}),
        "text": text,
    }


def named(row: Row) -> str:
    """The image that the example of a ledger row was trained to make."""
    return f"{row['pair']} in the tar {row['tar']}" if "pair" in row else row["target"]
