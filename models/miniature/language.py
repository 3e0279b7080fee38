"""What the miniature's captions can say: their vocabulary, and multiple-choice facts to check pictures by."""

from collections.abc import Sequence
from random import Random
from typing import TypedDict

from models.miniature.scenes import OTHER_OBJECTS, SCENES, full_caption, scene_phrase
from models.miniature.world import (
    CATEGORIES,
    COLOURS,
    KINDS,
    PATTERN_NOUNS,
    PATTERNS,
    ObjectSpec,
    with_article,
)

QUALITY_WORDS: tuple[str, ...] = ("blurry", "low", "resolution")
_CHOICES = 4

_QUESTIONS: dict[str, str] = {
    "category": "what is the object",
    "colour": "what colour is the {}",
    "pattern": "what pattern has the {}",
    "scene": "where is the {}",
    "other": "what is next to the {}",
}


class Fact(TypedDict):
    """One multiple-choice question about a picture; `kind` is category, colour, pattern, scene or other."""

    kind: str
    question: str
    choices: list[str]
    answer: str


def vocabulary() -> list[str]:
    """All lower-case words of captions, scene phrases, props, fact questions and quality words, sorted."""
    texts = [*COLOURS, *CATEGORIES, *PATTERNS, *PATTERN_NOUNS.values(), *QUALITY_WORDS, "a an and with"]
    texts += [kind.part for kind in KINDS.values()]
    texts += [full_caption("a", scene, other) for scene in SCENES for other in OTHER_OBJECTS]
    texts += [_QUESTIONS[kind].replace("{}", "") for kind in _QUESTIONS]
    return sorted({word for text in texts for word in text.split()})


def _fact(kind: str, noun: str, answer: str, options: Sequence[str], key: str) -> Fact:
    """Draw three wrong choices and shuffle; the draw is fixed by `key`."""
    rng = Random(f"{kind}/{key}")
    wrong = rng.sample(sorted(set(options) - {answer}), min(_CHOICES, len(options)) - 1)
    choices = [answer, *wrong]
    rng.shuffle(choices)
    return Fact(kind=kind, question=_QUESTIONS[kind].format(noun), choices=choices, answer=answer)


def facts(spec: ObjectSpec, scene: str, other_object: str | None = None) -> list[Fact]:
    """Category, primary colour, pattern, scene and (with one) prop as questions of four choices each.

    Every colour offered besides the answer is also not the object's secondary colour, so exactly one is right.
    """
    key = f"{spec.id}/{scene}/{other_object}"
    noun = spec.category
    colours = [colour for colour in COLOURS if colour != spec.secondary]
    found = [
        _fact("category", noun, with_article(noun), [with_article(name) for name in CATEGORIES], key),
        _fact("colour", noun, spec.primary, colours, key),
        _fact("pattern", noun, spec.pattern, PATTERNS, key),
        _fact("scene", noun, scene_phrase(scene), [scene_phrase(name) for name in SCENES], key),
    ]
    if other_object is not None:
        found.append(_fact("other", noun, other_object, OTHER_OBJECTS, key))
    return found
