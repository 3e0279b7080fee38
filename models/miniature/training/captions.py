"""Training captions: the world's own at every level of detail, and mixtures with attributes left out."""

from random import Random

from models.miniature.scenes import SCENES, scene_phrase
from models.miniature.world import KINDS, PATTERN_NOUNS, ObjectSpec, caption, with_article

BLURRED = "blurry low resolution"
"""Names the degraded images; recipes use it as the negative prompt."""
_DETAILS = (("full", 0.4), ("open", 0.65), ("category", 0.73))
"""Cumulative shares; the rest are mixtures."""
_KEPT = 0.7
_SCENE_KEPT = 0.85


def draw_caption(spec: ObjectSpec, scene: int, other: str | None, rng: Random) -> str:
    """A caption of one view, true as far as it goes; a prop may be left out like any attribute."""
    phrase = draw_object(spec, rng)
    if other is not None and rng.random() < _SCENE_KEPT:
        phrase += f" next to {other}"
    if rng.random() < _SCENE_KEPT:
        phrase += f" {scene_phrase(SCENES[scene])}"
    return phrase


def draw_object(spec: ObjectSpec, rng: Random) -> str:
    """The object's part of a caption."""
    draw = rng.random()
    for detail, below in _DETAILS:
        if draw < below:
            return caption(spec, detail)
    primary, secondary, pattern = (rng.random() < _KEPT for _ in range(3))
    marked = pattern and spec.pattern != "plain"
    behind = []
    if secondary and marked:
        behind.append(f"{spec.secondary} {PATTERN_NOUNS[spec.pattern]}")
    if secondary:
        part = f"{spec.secondary} {KINDS[spec.category].part}"
        behind.append(part if KINDS[spec.category].plural else with_article(part))
    words = [spec.primary] if primary else []
    if pattern and not (marked and secondary):
        words.append(spec.pattern)
    phrase = with_article(" ".join([*words, spec.category]))
    return f"{phrase} with {' and '.join(behind)}" if behind else phrase
