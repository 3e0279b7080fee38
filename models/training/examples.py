"""Which image of a set is the target, which are its references, and which conditions are dropped."""

import random
from dataclasses import dataclass

from configs.schema import Train


@dataclass(frozen=True)
class Reference:
    """One reference: its place within the kept images of the set, and whether it is flipped horizontally."""

    place: int
    flipped: bool = False


@dataclass(frozen=True)
class Example:
    """One training example; places are within the kept images of its set."""

    target: int
    references: tuple[Reference, ...]
    """Never the target as it is."""
    drop_text: bool
    drop_references: bool


def draw_example(images: int, section: Train, rng: random.Random) -> Example:
    """One training example from a set of `images` images.

    The target is uniform, the number of references uniform in 1 to `section.max_references`. References are other
    images, drawn without repetition; a set with too few of them reuses some flipped horizontally, each once, and a
    set of one image its target. One draw decides the conditions, so that dropping the text, the references or both
    exclude each other and happen as often as `section` says.
    """
    target = rng.randrange(images)
    others = [place for place in range(images) if place != target]
    wanted = rng.randint(1, section.max_references)
    references = [Reference(place) for place in rng.sample(others, min(wanted, len(others)))]
    spare = others or [target]
    missing = min(wanted - len(references), len(spare))
    references += [Reference(place, flipped=True) for place in rng.sample(spare, missing)]
    draw = rng.random()
    drop_both = draw < section.drop_both
    drop_text = drop_both or section.drop_both <= draw < section.drop_both + section.drop_text
    before_image = section.drop_both + section.drop_text
    drop_references = drop_both or before_image <= draw < before_image + section.drop_image
    return Example(target, tuple(references), drop_text, drop_references)
