"""Checks of drafted captions, and asking again for what fails them."""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from data.ids import seed_for
from data.records import Prompt, Rejected
from models.prompts.cleaning import clean
from models.prompts.naming import mentions, object_names
from models.prompts.writer import Ask, CaptionWriter, Draft

MAX_SENTENCES = 2
MOST_AT_ONCE = 20
"""Captions in one ask, and captions that are said to be there already: what fits an answer, and a context."""

_CHATTER = re.compile(
    r"\b(?:let me know|feel free|here(?:'s| is| are) (?:the|a|an|some|your|my|\w+ (?:background )?captions?)|as an ai"
    r"|i(?:'m| am| hope| can| cannot| will| have|'ll|'ve)\b|(?:further|additional) (?:assistance|help|questions)"
    r"|would you like|happy to help|please note|any (?:other )?suggestions|captions? for (?:the|your|this))"
    r"|^(?:sure|certainly|of course|okay|absolutely)\b\s*[,!.:]"
    r"|\b(?:note|captions?|scene|output|answer|example)s?\s*(?:#?\d+)?\s*:|:\s*$",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?]+(?=[\"')\]]*(?:\s+[\"'(\[]?[A-Z]|$))|[!?]+")
_WORD = re.compile(r"[^\W_]+(?:['.,-][^\W_]+)*")


@dataclass(frozen=True)
class Limits:
    min_words: int
    max_words: int
    max_rounds: int
    """How often the writer is asked, the first time included."""


@dataclass(frozen=True)
class Order:
    """What is wanted of one object: captions by kind. The other fields as in `Ask`."""

    object_id: str
    object_caption: str
    category: str
    wanted: Mapping[str, int]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    """Nouns of which a caption must hold one; none: those of `object_names`."""


@dataclass(frozen=True)
class Written:
    """What came of one order: accepted prompts kind by kind, and drafts that did not pass with their reasons."""

    prompts: tuple[Prompt, ...]
    rejected: tuple[Rejected, ...]
    problem: str | None
    """Why this is less than was ordered; None if it is all."""


def write_validated(writer: CaptionWriter, orders: Sequence[Order], limits: Limits, seed: int) -> list[Written]:
    """Captions that pass, for every order: exactly as many as wanted, or a problem that says why there are fewer.

    The writer is asked for all orders at once, and again for what is missing, up to `limits.max_rounds` times, each
    time with another seed. No caption of an object comes twice, whatever its kind.
    """
    open_orders = [_OpenOrder(order) for order in orders]
    for number in range(limits.max_rounds):
        asked = [(own, ask) for own in open_orders for ask in own.asks(number, seed)]
        if not asked:
            break
        for (own, ask), drafts in zip(asked, writer.write([ask for _, ask in asked]), strict=True):
            own.take(ask.kind, drafts, limits)
    return [own.written(writer.name, limits) for own in open_orders]


class _OpenOrder:
    """An order while it is being filled."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.names = order.names or object_names(order.object_caption, order.category)
        self.accepted: dict[str, list[Prompt]] = {kind: [] for kind in order.wanted}
        self.rejected: list[Rejected] = []
        self.seen: set[str] = set()

    def asks(self, number: int, seed: int) -> list[Ask]:
        """What is missing, at most MOST_AT_ONCE captions an ask, each with a seed of its own."""
        order, made = self.order, tuple(prompt.text for own in self.accepted.values() for prompt in own)
        found = []
        for kind, count in order.wanted.items():
            own_seed = seed_for(seed, f"prompts/{kind}", order.object_id)
            for part, start in enumerate(range(len(self.accepted[kind]), count, MOST_AT_ONCE)):
                found.append(
                    Ask(
                        object_caption=order.object_caption,
                        category=order.category,
                        kind=kind,
                        n=min(MOST_AT_ONCE, count - start),
                        seed=seed_for(own_seed, "prompts", f"{number}.{part}" if part else str(number)),
                        attributes=order.attributes,
                        avoid=made[-MOST_AT_ONCE:],
                    )
                )
        return found

    def take(self, kind: str, drafts: Sequence[Draft], limits: Limits) -> None:
        for draft in drafts:
            text = clean(draft.text)
            reason = draft.problem or problem(text, self.names, limits)
            reason = reason or ("duplicate" if comparable(text) in self.seen else None)
            if reason:
                self.rejected.append(Rejected(text=draft.text, reason=reason))
            elif len(self.accepted[kind]) < self.order.wanted[kind]:
                self.seen.add(comparable(text))
                self.accepted[kind].append(Prompt(text=text, kind=kind, facts=list(draft.facts)))

    def written(self, writer: str, limits: Limits) -> Written:
        prompts = tuple(prompt for own in self.accepted.values() for prompt in own)
        return Written(prompts, tuple(self.rejected), self._problem(writer, limits))

    def _problem(self, writer: str, limits: Limits) -> str | None:
        short = [
            f"{len(self.accepted[kind])} of {count} {kind} captions"
            for kind, count in self.order.wanted.items()
            if len(self.accepted[kind]) < count
        ]
        if not short:
            return None
        counted = Counter(rejected.reason for rejected in self.rejected)
        listed = ", ".join(f"{reason} {count}" for reason, count in sorted(counted.items())) or "none written"
        last = f"; the last: {self.rejected[-1].text[:200]!r}" if self.rejected else ""
        return (
            f"{' and '.join(short)} for {self.order.object_caption!r} passed after {limits.max_rounds} rounds of "
            f"{writer}; rejected: {listed}{last}"
        )


def problem(text: str, names: Collection[str], limits: Limits) -> str | None:
    """Why a cleaned caption cannot be used, or None.

    empty, chatter (the writer talks to its reader), no_object (none of `names` in it), too_short and too_long
    (in words), sentences (more than two).
    """
    words = len(_WORD.findall(text))
    if words == 0:
        return "empty"
    if _CHATTER.search(text):
        return "chatter"
    if not any(mentions(text, name) for name in names):
        return "no_object"
    if words < limits.min_words:
        return "too_short"
    if words > limits.max_words:
        return "too_long"
    if sentences(text) > MAX_SENTENCES:
        return "sentences"
    return None


def sentences(text: str) -> int:
    """Number of sentences: ends are . ! ? before a capital or the end of the text, and every ! and ?."""
    ends = [found.end() for found in _SENTENCE_END.finditer(text)]
    rest = text[ends[-1] :] if ends else text
    return len(ends) + bool(_WORD.search(rest))


def comparable(text: str) -> str:
    """A caption without what does not make it another one: case, blanks and the full stop at its end."""
    return " ".join(text.casefold().split()).rstrip(".")
