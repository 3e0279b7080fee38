"""What drafts captions: one small interface for the grammar of the miniature and for language models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

Kind = Literal["scene", "other_object", "style", "appearance", "background", "property"]
"""scene, other_object, style: for making image sets; appearance: what a described subject looks like; background,
property: for evaluation."""

KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True)
class Draft:
    """A caption as written, and what a picture of it must show if the writer knows: multiple-choice facts.

    A fact is {"question", "choices", "answer"}: choices are captions that differ in one respect, and the answer is
    the one that is true.
    """

    text: str
    facts: tuple[dict[str, Any], ...] = ()
    problem: str | None = None
    """A reason code if the writer itself knows that the draft cannot be used: truncated, refused."""


@dataclass(frozen=True)
class Ask:
    """`n` captions of one kind of one object.

    `object_caption` describes the object ("a striped mug"), `category` names it ("mug"; empty if unknown),
    `attributes` is what the asset's source knows beyond the caption, `avoid` the captions it has already.
    """

    object_caption: str
    category: str
    kind: str
    n: int
    seed: int
    attributes: Mapping[str, Any] = field(default_factory=dict)
    avoid: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"caption kind {self.kind!r}; choose one of {', '.join(KINDS)}")


class CaptionWriter(Protocol):
    name: str

    def write(self, asks: Sequence[Ask]) -> list[list[Draft]]:
        """About `n` drafts for each ask, in their order; equal asks give equal drafts. Drafts may be bad: they are
        checked."""
        ...

    def with_appearance(self, text: str, object_caption: str, appearance: str) -> str:
        """A caption that names the object by `object_caption`, with its appearance told as well."""
        ...
