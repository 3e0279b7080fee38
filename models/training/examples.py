"""Which image of a set is the target, which are its references, and which conditions are dropped."""

import random
from dataclasses import dataclass, replace

from configs.training import Train


@dataclass(frozen=True)
class Reference:
    """One reference: its place within the kept images of the set, whether it is flipped, and what is shown of it."""

    place: int
    flipped: bool = False
    """Horizontally."""
    crop: int | None = None
    """Number of a crop around the object; None: the whole image."""


@dataclass(frozen=True)
class Example:
    """One training example; places are within the kept images of its set. The target is always a whole image."""

    target: int
    references: tuple[Reference, ...]
    """Never the target as it is."""
    drop_text: bool
    drop_references: bool


def draw_example(images: int, section: Train, rng: random.Random) -> Example:
    """One training example from a set of `images` images.

    The target is uniform, the number of references uniform in 1 to `section.max_references`. References are other
    images, drawn without repetition; a set with too few of them reuses some flipped horizontally, each once, and a
    set of one image its target. Where crops are kept, a reference is one of those of its image, each as likely.
    """
    target = rng.randrange(images)
    others = [place for place in range(images) if place != target]
    wanted = rng.randint(1, section.max_references)
    references = [Reference(place) for place in rng.sample(others, min(wanted, len(others)))]
    spare = others or [target]
    missing = min(wanted - len(references), len(spare))
    references += [Reference(place, flipped=True) for place in rng.sample(spare, missing)]
    drop_text, drop_references = _draw_dropped(section, rng)
    if section.reference_crops:
        references = [replace(own, crop=rng.randrange(section.reference_crops)) for own in references]
    return Example(target, tuple(references), drop_text, drop_references)


def draw_pair(section: Train, rng: random.Random) -> Example:
    """The example that a text-image pair is: without references, its text dropped as often as that of a set."""
    drop_text, _ = _draw_dropped(section, rng)
    return Example(0, (), drop_text, drop_references=True)


def may_flip(images: int, section: Train) -> bool:
    """Whether `draw_example` can draw flipped references from a set of `images` images."""
    return images - 1 < section.max_references


def _draw_dropped(section: Train, rng: random.Random) -> tuple[bool, bool]:
    """Whether the text and whether the references are dropped.

    One draw decides, so that dropping the text, the references or both exclude each other and happen as often as
    `section` says.
    """
    draw = rng.random()
    drop_both = draw < section.drop_both
    drop_text = drop_both or section.drop_both <= draw < section.drop_both + section.drop_text
    before_image = section.drop_both + section.drop_text
    drop_references = drop_both or before_image <= draw < before_image + section.drop_image
    return drop_text, drop_references
