"""What one training example takes from the stored features, and what the ledger says of it."""

from typing import Any

from data.shards import Sample
from models.customizer import TrainingBatch
from models.training.examples import Example
from models.training.features import FeatureStore

Row = dict[str, Any]


def make_batch(features: FeatureStore, samples: list[Sample], examples: list[Example]) -> TrainingBatch:
    """Features of targets, texts and references; dropped text is the empty prompt, dropped references are none."""
    targets, texts, references = [], [], []
    for sample, example in zip(samples, examples, strict=True):
        images = sample.record["samples"]
        target = images[example.target]
        targets.append(features.image(sample.key, target["sample_id"]))
        texts.append(features.text(sample.key, "" if example.drop_text else target["prompt"]))
        kept = () if example.drop_references else example.references
        references.append([features.image(sample.key, images[own.place]["sample_id"], own.flipped) for own in kept])
    return TrainingBatch(targets, texts, references)


def consumed(sample: Sample, example: Example) -> Row:
    """What a training example took from its set, for the ledger: what was dropped is named as dropped."""
    images = sample.record["samples"]
    kept = () if example.drop_references else example.references
    return {
        "set": sample.key,
        "target": images[example.target]["sample_id"],
        "references": [images[own.place]["sample_id"] for own in kept],
        "flipped": [own.flipped for own in kept],
        "text": not example.drop_text,
    }
