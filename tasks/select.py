"""Select: which images and sets are kept, and why. Reads scores only; no model, no image.

The rule, in the order of thesis 5.3.3 ("First, we discard images with an aesthetic score below 6. Second, we use DINOv2
features to compute pairwise similarity within each set, removing images whose average pairwise similarity falls below
0.7"), with further checks that are off unless the recipe sets them:

0. A set whose asset has a licence that is not on the allow-list (`select.licences`, by default `assets.licences`) is
   dropped whole, whatever its images are like.
1. An image that is no good by itself is dropped: it shows no object at all, is below `min_quality`, more clipped than
   `max_clipped` or saturated than `max_saturation`, its object is smaller than `min_area` or cut off by more than
   `max_cut_off`, or it is further from its prompt than `min_text`.
2. Among the images left, one whose mean similarity to the others left is below `min_identity` is dropped. All means
   are taken before any is dropped. So an image that fell before neither drags its set down nor holds it together.
3. The images left are taken by falling quality (then by index); one whose object is more similar than `max_identity`,
   or whose background is more similar than `max_background`, to an image already taken is dropped: as its
   near-duplicate, or since the context must change.
4. A set with fewer than `min_images` left is dropped, and with it the images it still had.
5. A set is dropped if `min_images` of its images look like those of an earlier kept set (`max_hash_distance`).

An image carries the reason at which it fell first, with the value and the threshold.
"""

import fcntl
import json
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from configs.schema import Select
from data.assets.licences import allow_list
from data.duplicates import Duplicate, duplicate_sets
from data.ids import canonical_json
from data.records import DecisionRecord, ImageDecision, ImageScores, Reason, ScoreRecord
from data.shards import ShardIndex, ShardWriter, load_index, read_all, write_atomic
from data.stage import ShardSpec, StageContext, chunk

THRESHOLDS = tuple(name for name in Select.model_fields if name.startswith(("min_", "max_")) and "failed" not in name)
HISTOGRAM_BINS = 40
DECISIONS = "decisions.jsonl"
Scored = tuple[ScoreRecord, DecisionRecord]
OFF = {
    "min_text": -1.0,
    "max_background": 1.0,
    "max_clipped": 1.0,
    "max_saturation": 1.0,
    "min_area": 0.0,
    "max_cut_off": 1.0,
}
"""Values of thresholds that every image passes."""
ALONE = (
    ("low_quality", "quality", "min_quality"),
    ("clipped", "clipped", "max_clipped"),
    ("saturated", "saturation", "max_saturation"),
    ("small_object", "area", "min_area"),
    ("cut_off", "cut_off", "max_cut_off"),
    ("off_prompt", "clip_text", "min_text"),
)
"""Reason, score and threshold of the checks of one image by itself, in the order in which they are made."""


LOOKS_ACROSS_SHARDS = True
"""Of sets that nearly repeat each other one is kept: what becomes of a set may depend on any other."""


def plan(ctx: StageContext) -> list[ShardSpec]:
    return chunk(ctx.planned("score"), ctx.recipe.select.shard_size)


def run_shard(ctx: StageContext, spec: ShardSpec, out: ShardWriter) -> None:
    section, allowed = ctx.recipe.select, allow_list(ctx.recipe.published_licences)
    compared = section.max_hash_distance >= 0
    repeated = _duplicates(ctx.output_dir("score"), ctx.work_dir, section, allowed) if compared else {}
    for sample in ctx.read("score", spec.keys):
        decision = judge(ScoreRecord.model_validate(sample.record), section, allowed)
        if sample.key in repeated:
            decision = _as_duplicate(decision, repeated[sample.key], section)
        out.add(sample.key, decision)


def judge(scores: ScoreRecord, section: Select, allowed: Collection[str]) -> DecisionRecord:
    """The decision on one set by itself, rules 0 to 4 above; `allowed`: SPDX identifiers."""
    if scores.licence in allowed:
        return decide(scores, section)
    reasons = [Reason(code="licence", licence=scores.licence)]
    images = [ImageDecision(kept=False, reasons=reasons) for _ in scores.images]
    return DecisionRecord(set_id=scores.set_id, object_id=scores.object_id, kept=False, images=images, reasons=reasons)


def decide(scores: ScoreRecord, section: Select) -> DecisionRecord:
    """The decision on one set by its scores, rules 1 to 4 above."""
    quality = [image.quality for image in scores.images]
    identity_kk, context_kk = np.array(scores.identity_pairs), np.array(scores.background_pairs)
    reasons = {place: reason for place, image in enumerate(scores.images) if (reason := _alone(image, section))}
    means = _means(identity_kk, [i for i in range(len(quality)) if i not in reasons])
    for image, mean in means.items():
        if mean < section.min_identity:
            reasons[image] = Reason(code="low_identity", value=mean, threshold=section.min_identity)
    left = [image for image in range(len(quality)) if image not in reasons]
    best_first = sorted(left, key=lambda i: (-quality[i], i))
    reasons |= _too_alike(best_first, identity_kk, context_kk, section)
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


def _alone(image: ImageScores, section: Select) -> Reason | None:
    if image.area == 0:
        return Reason(code="no_object", value=0.0, threshold=0.0)
    for code, score, limit in ALONE:
        value, threshold = getattr(image, score), getattr(section, limit)
        if (value < threshold) if limit.startswith("min_") else (value > threshold):
            return Reason(code=code, value=value, threshold=threshold)
    return None


def _means(pairs_kk: np.ndarray, left: list[int]) -> dict[int, float]:
    """Of each image that is left to the others left; none for one that is alone."""
    others = {image: [other for other in left if other != image] for image in left}
    return {image: round(float(np.mean(pairs_kk[image, own])), 6) for image, own in others.items() if own}


def _too_alike(
    best_first: list[int], identity_kk: np.ndarray, context_kk: np.ndarray, section: Select
) -> dict[int, Reason]:
    """Images that repeat the object or the context of one that was taken before them."""
    checks = (
        ("near_duplicate", identity_kk, section.max_identity),
        ("same_context", context_kk, section.max_background),
    )
    found: dict[int, Reason] = {}
    taken: list[int] = []
    for image in best_first:
        for code, pairs_kk, threshold in checks:
            nearest = max((float(pairs_kk[image, other]) for other in taken), default=-1.0)
            if nearest > threshold:
                found[image] = Reason(code=code, value=nearest, threshold=threshold)
                break
        else:
            taken.append(image)
    return found


@lru_cache(maxsize=2)
def _duplicates(scores: Path, work_dir: Path, section: Select, allowed: frozenset[str]) -> dict[str, Duplicate]:
    """Kept sets that nearly repeat an earlier kept set, over the whole dataset.

    The first worker of a signature finds them and keeps them in its work folder; the others wait for it.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    path = work_dir / "duplicates.json"
    with path.with_suffix(".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        if not path.exists():
            found = _find_duplicates(scores, section, allowed)
            write_atomic(path, canonical_json({key: asdict(duplicate) for key, duplicate in found.items()}))
    return {key: Duplicate(**fields) for key, fields in json.loads(path.read_bytes()).items()}


def _find_duplicates(scores: Path, section: Select, allowed: Collection[str]) -> dict[str, Duplicate]:
    hashes = {}
    for sample in read_all(scores, load_index(scores)):
        record = ScoreRecord.model_validate(sample.record)
        decision = judge(record, section, allowed)
        if decision.kept:
            verdicts = zip(record.hashes, decision.images, strict=True)
            hashes[record.set_id] = [digits for digits, image in verdicts if image.kept]
    return duplicate_sets(hashes, section.max_hash_distance, section.min_images)


def _as_duplicate(decision: DecisionRecord, duplicate: Duplicate, section: Select) -> DecisionRecord:
    reason = Reason(code="duplicate_set", value=duplicate.distance, threshold=section.max_hash_distance)
    images = [
        image.model_copy(update={"kept": False, "reasons": image.reasons or [reason]}) for image in decision.images
    ]
    changes = {"kept": False, "images": images, "reasons": [reason], "duplicate_of": duplicate.other}
    return decision.model_copy(update=changes)


def finalize(ctx: StageContext, index: ShardIndex, out_dir: Path) -> dict[str, Any]:
    """Writes `decisions.jsonl` (one set a line) and `histograms.json` (see `histograms`)."""
    thresholds = {name: getattr(ctx.recipe.select, name) for name in THRESHOLDS}
    counts, dropped, refused = Counter(), Counter(), Counter()

    def told(stream: BinaryIO) -> Iterator[Scored]:
        for scores, decision in _scored(ctx, index, out_dir):
            stream.write(canonical_json(decision.model_dump(mode="json")) + b"\n")
            kept_images = sum(image.kept for image in decision.images)
            counts.update(sets=1, kept_sets=int(decision.kept), images=len(decision.images), kept_images=kept_images)
            counts.update(duplicate_sets=int(decision.duplicate_of is not None))
            dropped.update(reason.code for image in decision.images for reason in image.reasons)
            refused.update(reason.licence for reason in decision.reasons if reason.licence is not None)
            yield scores, decision

    with (out_dir / DECISIONS).open("wb") as stream:
        graphs = histograms(told(stream), thresholds)
    (out_dir / "histograms.json").write_bytes(canonical_json(graphs) + b"\n")
    return {
        "sets": counts["sets"],
        "kept_sets": counts["kept_sets"],
        "set_yield": _share(counts["kept_sets"], counts["sets"]),
        "images": counts["images"],
        "kept_images": counts["kept_images"],
        "image_yield": _share(counts["kept_images"], counts["images"]),
        "duplicate_sets": counts["duplicate_sets"],
        "sets_by_refused_licence": dict(sorted(refused.items())),
        "dropped_images": dict(sorted(dropped.items())),
        "thresholds": thresholds,
    }


def _scored(ctx: StageContext, index: ShardIndex, out_dir: Path) -> Iterator[Scored]:
    """Every set with its scores. Both stages publish their keys in ascending order, so that neither is held whole."""
    scores = read_all(ctx.output_dir("score"), ctx.index("score"))
    for sample in read_all(out_dir, index):
        own = next(score for score in scores if score.key == sample.key)
        yield ScoreRecord.model_validate(own.record), DecisionRecord.model_validate(sample.record)


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def histograms(scored: Iterable[Scored], thresholds: dict[str, float]) -> dict[str, Any]:
    """Score -> `edges` (bins + 1), `all` and `kept` counts per bin, and the `thresholds` that lie on its axis.

    `identity` is the mean that was decided on, of the images that have one. `identity_pair` and `background_pair` count
    every pair of a set once; a pair is kept when both its images are. A threshold that lets all pass is left out.
    """
    lines = {
        "quality": ("min_quality",),
        "identity": ("min_identity",),
        "identity_pair": ("max_identity",),
        "background_pair": ("max_background",),
        "identity_masked": (),
        "clip_image": (),
        "clip_text": ("min_text",),
        "area": ("min_area",),
        "cut_off": ("max_cut_off",),
        "saturation": ("max_saturation",),
        "clipped": ("max_clipped",),
    }
    columns = {name: (array("d"), bytearray()) for name in lines}
    for scores, decision in scored:
        for name, (values, kept) in columns.items():
            found = _pairs(scores, decision, name) if name.endswith("_pair") else _values(scores, decision, name)
            for value, keep in found:
                values.append(value)
                kept.append(keep)
    graphs = {}
    for name, marks in lines.items():
        values, kept = np.array(columns[name][0]), np.array(columns[name][1], dtype=bool)
        edges = _edges(values)
        graphs[name] = {
            "edges": [round(float(edge), 6) for edge in edges],
            "all": np.histogram(values, edges)[0].tolist(),
            "kept": np.histogram(values[kept], edges)[0].tolist(),
            "thresholds": {mark: thresholds[mark] for mark in marks if thresholds[mark] != OFF.get(mark)},
        }
    return graphs


def _edges(values: np.ndarray) -> np.ndarray:
    low, high = (values.min(), values.max()) if values.size else (0.0, 1.0)
    return np.linspace(low, high if high > low else low + 1.0, HISTOGRAM_BINS + 1)


def _values(scores: ScoreRecord, decision: DecisionRecord, name: str) -> Iterator[tuple[float, bool]]:
    for image, verdict in zip(scores.images, decision.images, strict=True):
        value = verdict.identity if name == "identity" else getattr(image, name)
        if value is not None:
            yield value, verdict.kept


def _pairs(scores: ScoreRecord, decision: DecisionRecord, name: str) -> Iterator[tuple[float, bool]]:
    pairs_kk = getattr(scores, f"{name}s")
    for second in range(len(scores.images)):
        for first in range(second):
            yield pairs_kk[first][second], decision.images[first].kept and decision.images[second].kept
