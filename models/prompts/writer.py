"""What drafts captions: one small interface for the grammar of the miniature and for language models."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

Kind = Literal["scene", "other_object", "background", "property"]
"""scene, other_object: for making image sets; background, property: for evaluation."""

KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True)
class Draft:
    """A caption as written, and what a picture of it must show if the writer knows: multiple-choice facts.

    A fact is {"question", "choices", "answer"}: choices are captions that differ in one respect, and the answer is
    the one that is true.
    """

    text: str
    facts: tuple[dict[str, Any], ...] = ()


class CaptionWriter(Protocol):
    name: str

    def write(
        self, object_caption: str, category: str, kind: str, n: int, seed: int, attributes: Mapping[str, Any]
    ) -> list[Draft]:
        """About `n` drafts of one kind; equal arguments give equal drafts. Drafts may be bad: they are checked.

        `object_caption` describes the object ("a striped mug"), `category` names it ("mug"; empty if unknown),
        `attributes` is what the asset's source knows beyond the caption (may be empty).
        """
        ...
