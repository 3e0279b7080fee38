"""Which sets the report shows, and what it says about each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from data.records import DecisionRecord, GeneratedRecord, ImageScores, Reason, ScoreRecord
from data.stage import StageContext
from tasks.reporting.pictures import Picture, picture

Item = TypeVar("Item")


class Verdict(NamedTuple):
    """What is known of every set; the rest only of those that are shown."""

    set_id: str
    kept: bool


@dataclass(frozen=True)
class ShownSet:
    """Everything known of one set. Files per image i: `i.png`, `i.mask.png` and, where it was used, `i.depth.png`."""

    generated: GeneratedRecord
    scores: ScoreRecord
    decision: DecisionRecord
    files: dict[str, bytes]


@dataclass(frozen=True)
class Score:
    name: str
    value: float
    missed: bool
    """The image was dropped for this score."""


@dataclass(frozen=True)
class ImageView:
    prompt: str
    kind: str
    seed: int
    pictures: list[Picture]
    scores: list[Score]
    kept: bool
    reasons: list[str]


@dataclass(frozen=True)
class SetView:
    set_id: str
    caption: str
    appearance: str | None
    category: str
    licence: str
    model: str
    kept: bool
    reasons: list[str]
    images: list[ImageView]


PICTURES = (("depth.png", "depth condition"), ("mask.png", "object mask"), ("png", "generated image"))
SCORE_OF_REASON = {
    "no_object": "area",
    "low_quality": "quality",
    "clipped": "clipped",
    "saturated": "saturation",
    "small_object": "area",
    "cut_off": "cut_off",
    "off_prompt": "clip_text",
    "low_identity": "identity",
    "near_duplicate": "identity",
    "same_context": "background",
}


def choose(decisions: Sequence[Verdict | DecisionRecord], count: int) -> list[str]:
    """At most `count` set ids, half kept and half dropped where there are enough, evenly spaced in the order of ids."""
    kept = sorted(decision.set_id for decision in decisions if decision.kept)
    dropped = sorted(decision.set_id for decision in decisions if not decision.kept)
    of_dropped = min(len(dropped), max(count // 2, count - len(kept)))
    return sorted(spaced(kept, count - of_dropped) + spaced(dropped, of_dropped))


def spaced(items: Sequence[Item], count: int) -> list[Item]:
    """`count` of the items (all, if there are fewer), evenly spaced, the first among them."""
    count = min(count, len(items))
    return [items[number * len(items) // count] for number in range(count)]


def load_sets(ctx: StageContext, keys: Sequence[str]) -> list[ShownSet]:
    """The sets with these ids, in their order; each shard they lie in is verified and read once."""
    scores = {sample.key: ScoreRecord.model_validate(sample.record) for sample in ctx.read("score", keys)}
    decisions = {sample.key: DecisionRecord.model_validate(sample.record) for sample in ctx.read("select", keys)}
    return [
        ShownSet(GeneratedRecord.model_validate(sample.record), scores[sample.key], decisions[sample.key], sample.files)
        for sample in ctx.read("generate", keys)
    ]


def set_view(shown: ShownSet) -> SetView:
    generated = shown.generated
    images = []
    for sample, scores, verdict in zip(generated.samples, shown.scores.images, shown.decision.images, strict=True):
        missed = {SCORE_OF_REASON.get(reason.code) for reason in verdict.reasons}
        images.append(
            ImageView(
                prompt=sample.prompt,
                kind=sample.prompt_kind,
                seed=sample.seed,
                pictures=_pictures(shown, sample.index),
                scores=[Score(name, getattr(scores, name), name in missed) for name in ImageScores.model_fields],
                kept=verdict.kept,
                reasons=[reason_text(reason) for reason in verdict.reasons],
            )
        )
    repeats = [f"repeats {shown.decision.duplicate_of}"] if shown.decision.duplicate_of else []
    return SetView(
        set_id=generated.set_id,
        caption=generated.caption,
        appearance=generated.appearance,
        category=generated.category,
        licence=generated.licence,
        model=generated.model,
        kept=shown.decision.kept,
        reasons=[reason_text(reason) for reason in shown.decision.reasons] + repeats,
        images=images,
    )


def _pictures(shown: ShownSet, index: int) -> list[Picture]:
    return [
        picture(shown.files[f"{index}.{kind}"], f"{what}, image {index} of {shown.generated.set_id}")
        for kind, what in PICTURES
        if f"{index}.{kind}" in shown.files
    ]


def reason_text(reason: Reason) -> str:
    """For example `low quality: 5.21, threshold 6`."""
    if reason.licence is not None:
        return f"licence: {reason.licence} is not allowed"
    return f"{reason.code.replace('_', ' ')}: {reason.value:.3g}, threshold {reason.threshold:g}"
