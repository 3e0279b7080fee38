"""Select: which images and sets are kept, and why. Reads scores only; no model, no image.

The rule, in the order of thesis 5.3.3 ("First, we discard images with an aesthetic score below 6. Second, we use DINOv2
features to compute pairwise similarity within each set, removing images whose average pairwise similarity falls below
0.7"):

1. An image below `min_quality` is dropped.
2. Among the images left, one whose mean similarity to the others left is below `min_identity` is dropped. All means
   are taken before any is dropped. So an image that quality dropped neither drags its set down nor holds it together.
3. The images left are taken by falling quality (then by index); one that is more similar than `max_identity` to an
   image already taken is dropped as its near-duplicate.
4. A set with fewer than `min_images` left is dropped, and with it the images it still had.

An image may fail 1 only, 2 only or 3 only: it carries the reason at which it fell, with the value and the threshold.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema import Select
from data.ids import canonical_json
from data.records import DecisionRecord, ImageDecision, Reason, ScoreRecord
from data.shards import ShardIndex, ShardWriter, read_all
from data.stage import ShardSpec, StageContext, chunk

THRESHOLDS = ("min_quality", "min_identity", "max_identity", "min_images")
HISTOGRAM_BINS = 40


def plan(ctx: StageContext) -> list[ShardSpec]:
    return chunk(ctx.index("score").keys, ctx.recipe.select.shard_size)


def run_shard(ctx: StageContext, spec: ShardSpec, out: ShardWriter) -> None:
    for sample in ctx.read("score", spec.keys):
        out.add(sample.key, decide(ScoreRecord.model_validate(sample.record), ctx.recipe.select))


def decide(scores: ScoreRecord, section: Select) -> DecisionRecord:
    """The decision on one set, by the rule above."""
    quality = [image.quality for image in scores.images]
    pairs_kk = np.array(scores.identity_pairs)
    reasons: dict[int, Reason] = {}
    for image, value in enumerate(quality):
        if value < section.min_quality:
            reasons[image] = Reason(code="low_quality", value=value, threshold=section.min_quality)
    means = _means(pairs_kk, [i for i in range(len(quality)) if i not in reasons])
    for image, mean in means.items():
        if mean < section.min_identity:
            reasons[image] = Reason(code="low_identity", value=mean, threshold=section.min_identity)
    left = [image for image in range(len(quality)) if image not in reasons]
    reasons |= _near_duplicates(pairs_kk, sorted(left, key=lambda i: (-quality[i], i)), section.max_identity)
    kept = len(quality) - len(reasons)
    of_set = []
    if kept < section.min_images:
        of_set = [Reason(code="set_too_small", value=kept, threshold=section.min_images)]
    return DecisionRecord(
        set_id=scores.set_id,
        object_id=scores.object_id,
        kept=not of_set,
        images=[
            ImageDecision(
                kept=image not in reasons and not of_set,
                identity=means.get(image),
                reasons=[reasons[image]] if image in reasons else of_set,
            )
            for image in range(len(quality))
        ],
        reasons=of_set,
    )


def _means(pairs_kk: np.ndarray, left: list[int]) -> dict[int, float]:
    """Of each image that is left to the others left; none for one that is alone."""
    others = {image: [other for other in left if other != image] for image in left}
    return {image: round(float(np.mean(pairs_kk[image, own])), 6) for image, own in others.items() if own}


def _near_duplicates(pairs_kk: np.ndarray, best_first: list[int], threshold: float) -> dict[int, Reason]:
    found: dict[int, Reason] = {}
    taken: list[int] = []
    for image in best_first:
        nearest = max((float(pairs_kk[image, other]) for other in taken), default=-1.0)
        if nearest > threshold:
            found[image] = Reason(code="near_duplicate", value=nearest, threshold=threshold)
        else:
            taken.append(image)
    return found


def finalize(ctx: StageContext, index: ShardIndex, out_dir: Path) -> dict[str, Any]:
    """Writes `decisions.jsonl` (one set a line) and `histograms.json` (see `histograms`)."""
    decisions = {s.key: DecisionRecord.model_validate(s.record) for s in read_all(out_dir, index)}
    scores = {
        s.key: ScoreRecord.model_validate(s.record) for s in read_all(ctx.output_dir("score"), ctx.index("score"))
    }
    lines = [canonical_json(decision.model_dump(mode="json")) + b"\n" for decision in decisions.values()]
    (out_dir / "decisions.jsonl").write_bytes(b"".join(lines))
    thresholds = {name: getattr(ctx.recipe.select, name) for name in THRESHOLDS}
    graphs = histograms([(scores[key], decision) for key, decision in decisions.items()], thresholds)
    (out_dir / "histograms.json").write_bytes(canonical_json(graphs) + b"\n")
    return {**_counts(list(decisions.values())), "thresholds": thresholds}


def _counts(decisions: list[DecisionRecord]) -> dict[str, Any]:
    images = [image for decision in decisions for image in decision.images]
    kept_sets = sum(decision.kept for decision in decisions)
    kept_images = sum(image.kept for image in images)
    return {
        "sets": len(decisions),
        "kept_sets": kept_sets,
        "set_yield": _share(kept_sets, len(decisions)),
        "images": len(images),
        "kept_images": kept_images,
        "image_yield": _share(kept_images, len(images)),
        "dropped_images": dict(sorted(Counter(r.code for image in images for r in image.reasons).items())),
    }


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def histograms(scored: list[tuple[ScoreRecord, DecisionRecord]], thresholds: dict[str, float]) -> dict[str, Any]:
    """Score -> `edges` (bins + 1), `all` and `kept` counts per bin, and the `thresholds` that lie on its axis.

    `identity` is the mean that was decided on, of the images that have one. `identity_pair` counts every pair of a set
    once; a pair is kept when both its images are.
    """
    lines = {
        "quality": {"min_quality": thresholds["min_quality"]},
        "identity": {"min_identity": thresholds["min_identity"]},
        "identity_pair": {"max_identity": thresholds["max_identity"]},
        "identity_masked": {},
        "clip_image": {},
        "clip_text": {},
    }
    graphs = {}
    for name, marks in lines.items():
        values, kept = _pairs(scored) if name == "identity_pair" else _values(scored, name)
        edges = _edges(values)
        graphs[name] = {
            "edges": [round(float(edge), 6) for edge in edges],
            "all": np.histogram(values, edges)[0].tolist(),
            "kept": np.histogram([v for v, keep in zip(values, kept, strict=True) if keep], edges)[0].tolist(),
            "thresholds": marks,
        }
    return graphs


def _edges(values: list[float]) -> np.ndarray:
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    return np.linspace(low, high if high > low else low + 1.0, HISTOGRAM_BINS + 1)


def _values(scored: list[tuple[ScoreRecord, DecisionRecord]], name: str) -> tuple[list[float], list[bool]]:
    kept = [image.kept for _, decision in scored for image in decision.images]
    if name == "identity":
        values = [image.identity for _, decision in scored for image in decision.images]
    else:
        values = [getattr(image, name) for record, _ in scored for image in record.images]
    there = [(value, keep) for value, keep in zip(values, kept, strict=True) if value is not None]
    return [value for value, _ in there], [keep for _, keep in there]


def _pairs(scored: list[tuple[ScoreRecord, DecisionRecord]]) -> tuple[list[float], list[bool]]:
    values, kept = [], []
    for record, decision in scored:
        for second in range(len(record.images)):
            for first in range(second):
                values.append(record.identity_pairs[first][second])
                kept.append(decision.images[first].kept and decision.images[second].kept)
    return values, kept
