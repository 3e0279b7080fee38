"""Which image of a set is the target, which are its references, and which conditions are dropped (method.md 5)."""

import random
from dataclasses import dataclass

from configs.schema import Train


@dataclass(frozen=True)
class Example:
    """Places within the kept images of a set."""

    target: int
    references: tuple[int, ...]
    """None of them the target, unless it is the only image: then it is its own reference, flipped horizontally."""
    drop_text: bool
    drop_references: bool

    @property
    def flipped(self) -> bool:
        return self.references == (self.target,)


def draw_example(images: int, section: Train, rng: random.Random) -> Example:
    """One training example from a set of `images` images.

    The target is uniform, the number of references uniform in 1 to `section.max_references` and at most all others,
    the references uniform without repetition. One draw decides the conditions, so that dropping the text, the
    references or both exclude each other and happen as often as `section` says.
    """
    target = rng.randrange(images)
    others = [place for place in range(images) if place != target]
    wanted = rng.randint(1, section.max_references)
    references = rng.sample(others, min(wanted, len(others))) if others else [target]
    draw = rng.random()
    drop_both = draw < section.drop_both
    drop_text = drop_both or section.drop_both <= draw < section.drop_both + section.drop_text
    before_image = section.drop_both + section.drop_text
    drop_references = drop_both or before_image <= draw < before_image + section.drop_image
    return Example(target, tuple(references), drop_text, drop_references)
