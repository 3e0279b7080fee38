"""The writer of the miniature: object caption + scene phrase, in the words its networks were trained on.

It works for any noun phrase ("a yellow duck" -> "a yellow duck next to a red ball on a beach").
"""

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from data.assets.captions import head_noun, with_article
from models.miniature.scenes import OTHER_OBJECTS, SCENES, full_caption
from models.miniature.world import CATEGORIES, COLOURS, PATTERNS
from models.prompts.writer import Ask, Draft

GRAMMAR_KINDS = ("scene", "other_object", "appearance", "background", "property")
_CHOICES = 4


class GrammarWriter:
    """Drafts in an order that the seed fixes, spread over scenes, other objects and colours.

    A kind has finitely many captions (as many as scenes; scenes x other objects; scenes x colours), and `write`
    returns fewer than asked when they are used up. `property` captions change the colour: they name the object by
    its category and give it a colour that neither its caption nor its attributes mention. Its own first colour is
    always among the answers to the colour question, so that an unchanged object gives the wrong one.
    """

    name = "grammar"

    def write(self, asks: Sequence[Ask]) -> list[list[Draft]]:
        """ValueError for a kind that this grammar has no words for."""
        return [self._drafts(ask) for ask in asks]

    def _drafts(self, ask: Ask) -> list[Draft]:
        phrase, category, n, seed = _noun_phrase(ask.object_caption), ask.category, ask.n, ask.seed
        if ask.kind in ("scene", "background"):
            return [_draft(phrase, category, scene) for (scene,) in spread([SCENES], n, seed)]
        if ask.kind == "other_object":
            others = [other for other in OTHER_OBJECTS if head_noun(other) not in (category, head_noun(phrase))]
            pairs = spread([others, SCENES], n, seed)
            return [_draft(phrase, category, scene, other) for other, scene in pairs]
        if ask.kind == "appearance":
            return [Draft(str(ask.attributes.get("full_caption", phrase)))]
        if ask.kind == "property":
            shown = f"{phrase} {' '.join(map(str, ask.attributes.values()))}"
            colours = [colour for colour in COLOURS if not re.search(rf"\b{colour}\b", shown, re.IGNORECASE)]
            named = (
                [str(ask.attributes["primary"])] if "primary" in ask.attributes else re.findall(r"\w+", shown.lower())
            )
            own = next((word for word in named if word in COLOURS), None)
            noun = category or head_noun(phrase)
            return [
                _recoloured(noun, scene, colour, colours, own) for colour, scene in spread([colours, SCENES], n, seed)
            ]
        raise ValueError(
            f"caption kind {ask.kind!r}: the grammar writes {', '.join(GRAMMAR_KINDS)}; set its count to 0"
        )

    def with_appearance(self, text: str, object_caption: str, appearance: str) -> str:
        """The appearance in place of the object's caption. ValueError if the text does not start with that."""
        phrase = _noun_phrase(object_caption)
        if not text.startswith(phrase):
            raise ValueError(f"caption {text!r} does not start with {phrase!r}: its appearance cannot take its place")
        return appearance + text.removeprefix(phrase)


def spread(axes: Sequence[Sequence[str]], n: int, seed: int) -> list[tuple[str, ...]]:
    """Up to `n` distinct combinations of one value per axis; no value comes twice while some are unused on every axis.

    Among combinations whose values are equally little used, the sha256 of seed and combination decides, so that
    nothing depends on a library's random stream.
    """

    def rank(combination: tuple[str, ...]) -> str:
        return hashlib.sha256(f"{seed}/{'/'.join(combination)}".encode()).hexdigest()

    left = sorted(itertools.product(*axes), key=rank)
    used: Counter[tuple[int, str]] = Counter()
    chosen: list[tuple[str, ...]] = []
    while left and len(chosen) < n:
        best = min(left, key=lambda combination: sum(used[place] for place in enumerate(combination)))
        left.remove(best)
        used.update(enumerate(best))
        chosen.append(best)
    return chosen


def _noun_phrase(object_caption: str) -> str:
    """The first sentence of a caption as part of a longer one: no full stop, no capital article."""
    first = re.split(r"\.(?:\s+|$)", object_caption.strip(), maxsplit=1)[0].strip()
    return re.sub(r"^(?:An?|The)\b", lambda article: article[0].lower(), first)


def _draft(phrase: str, category: str, scene: str, other: str | None = None) -> Draft:
    text = full_caption(phrase, scene, other)
    facts = [_fact("where is it", text, scene, SCENES, lambda name: full_caption(phrase, name, other))]
    if other is not None:
        facts.append(
            _fact("what is next to it", text, other, OTHER_OBJECTS, lambda name: full_caption(phrase, scene, name))
        )
    for question, options in (("what is it", CATEGORIES), ("what pattern has it", PATTERNS)):
        named = [option for option in options if re.search(rf"\b{option}\b", phrase)]
        if len(named) == 1 and (options is PATTERNS or named == [category]):
            facts.append(
                _fact(
                    question,
                    text,
                    named[0],
                    options,
                    lambda name, word=named[0]: full_caption(_with_word(phrase, word, name), scene, other),
                )
            )
    return Draft(text, tuple(facts))


def _recoloured(noun: str, scene: str, colour: str, colours: Sequence[str], own: str | None) -> Draft:
    def caption(shade: str) -> str:
        return full_caption(with_article(f"{shade} {noun}"), scene)

    text = caption(colour)
    facts = [
        _fact("what colour is it", text, colour, colours, caption, own),
        _fact("where is it", text, scene, SCENES, lambda name: full_caption(with_article(f"{colour} {noun}"), name)),
    ]
    return Draft(text, tuple(facts))


def _with_word(phrase: str, word: str, other: str) -> str:
    """`phrase` with `other` in place of `word`, and the article before it put right."""
    replaced = re.sub(rf"\b{word}\b", other, phrase, count=1)
    bare = re.sub(r"^an?\s+", "", replaced)
    return with_article(bare) if bare != replaced else replaced


def _fact(
    question: str,
    key: str,
    answer: str,
    options: Sequence[str],
    caption: Callable[[str], str],
    trap: str | None = None,
) -> dict[str, Any]:
    """A question of four captions, or fewer if there are fewer options; which ones and their order depend on `key`.

    `trap` is a wrong answer that is always among them.
    """

    def rank(option: str) -> str:
        return hashlib.sha256(f"{question}/{key}/{option}".encode()).hexdigest()

    traps = [trap] if trap is not None and trap != answer else []
    wrong = sorted((option for option in options if option not in (answer, trap)), key=rank)
    choices = sorted([answer, *traps, *wrong[: _CHOICES - 1 - len(traps)]], key=rank)
    return {"question": question, "choices": [caption(option) for option in choices], "answer": caption(answer)}
