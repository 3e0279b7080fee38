"""Checks of drafted captions, and asking again for what fails them."""

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from data.assets.captions import head_noun
from data.ids import seed_for
from data.records import Prompt, Rejected
from models.prompts.cleaning import clean
from models.prompts.writer import CaptionWriter

MAX_SENTENCES = 2

_CHATTER = re.compile(
    r"\b(?:let me know|feel free|here(?:'s| is| are) (?:the|a|an|some|your|my|\w+ (?:background )?captions?)|as an ai"
    r"|i(?:'m| am| hope| can| cannot| will| have|'ll|'ve)\b|(?:further|additional) (?:assistance|help|questions)"
    r"|would you like|happy to help|please note|any (?:other )?suggestions|captions? for (?:the|your|this))"
    r"|^(?:sure|certainly|of course|okay|absolutely)\b\s*[,!.:]|\b(?:note|captions?|output|answer|example)s?\s*:",
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


class PromptError(Exception):
    """An object for which too few captions passed; `reason` is the code to record."""

    reason = "too_few_prompts"


def write_validated(
    writer: CaptionWriter,
    object_caption: str,
    category: str,
    kind: str,
    n: int,
    seed: int,
    limits: Limits,
    taken: Collection[str] = (),
    attributes: Mapping[str, Any] | None = None,
) -> tuple[list[Prompt], list[Rejected]]:
    """Exactly `n` captions that pass, in the order written, and those that did not, each with its reason.

    The writer is asked for as many as are missing, up to `limits.max_rounds` times, each time with another seed;
    captions in `taken` count as duplicates. Raises PromptError, with the reasons counted, if that is not enough.
    """
    names = object_names(object_caption, category)
    accepted: list[Prompt] = []
    rejected: list[Rejected] = []
    seen = {_comparable(text) for text in taken}
    for number in range(limits.max_rounds):
        if len(accepted) == n:
            break
        round_seed = seed_for(seed, "prompts", str(number))
        for draft in writer.write(object_caption, category, kind, n - len(accepted), round_seed, attributes or {}):
            text = clean(draft.text)
            reason = problem(text, names, limits) or ("duplicate" if _comparable(text) in seen else None)
            if reason:
                rejected.append(Rejected(text=draft.text, reason=reason))
            elif len(accepted) < n:
                seen.add(_comparable(text))
                accepted.append(Prompt(text=text, kind=kind, facts=list(draft.facts)))
    if len(accepted) < n:
        counted = ", ".join(
            f"{reason} {count}" for reason, count in sorted(Counter(r.reason for r in rejected).items())
        )
        raise PromptError(
            f"{len(accepted)} of {n} {kind} captions for {object_caption!r} passed after {limits.max_rounds} rounds of "
            f"{writer.name}; rejected: {counted or 'none written'}"
        )
    return accepted, rejected


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


def object_names(object_caption: str, category: str) -> tuple[str, ...]:
    """The nouns of which a caption must hold one: the category and the noun of the object's own caption."""
    return tuple(dict.fromkeys(name for name in (category.lower(), head_noun(object_caption)) if name))


def mentions(text: str, name: str) -> bool:
    """Whether `name` stands in `text` as whole words, in any case, in the singular or the plural."""
    *first, last = re.findall(r"\w+", name.lower())
    pattern = r"\W+".join([*map(re.escape, first), f"(?:{'|'.join(sorted(map(re.escape, _forms(last))))})"])
    return re.search(rf"(?<!\w){pattern}(?!\w)", text.lower()) is not None


def sentences(text: str) -> int:
    """Number of sentences: ends are . ! ? before a capital or the end of the text, and every ! and ?."""
    ends = [found.end() for found in _SENTENCE_END.finditer(text)]
    rest = text[ends[-1] :] if ends else text
    return len(ends) + bool(_WORD.search(rest))


def _forms(noun: str) -> set[str]:
    forms = {noun, f"{noun}s"}
    if re.search(r"(?:s|x|z|ch|sh|o)$", noun):
        forms.add(f"{noun}es")
    if re.search(r"[^aeiou]y$", noun):
        forms.add(f"{noun[:-1]}ies")
    if noun.endswith("f"):
        forms.add(f"{noun[:-1]}ves")
    if noun.endswith("fe"):
        forms.add(f"{noun[:-2]}ves")
    if noun.endswith("ies") and len(noun) > 4:
        forms.add(f"{noun[:-3]}y")
    if noun.endswith("es") and len(noun) > 4:
        forms.add(noun[:-2])
    if noun.endswith("s") and not noun.endswith("ss") and len(noun) > 3:
        forms.add(noun[:-1])
    return forms


def _comparable(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")
