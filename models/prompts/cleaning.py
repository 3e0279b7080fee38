"""Clean-up of drafted captions. Works on whole words only: "a chicken" stays a chicken, "3 cups" stay three."""

import re
import unicodedata
from collections.abc import Collection

from data.assets.captions import article_for

EMOTIVE_WORDS = frozenset(
    {
        "adorable",
        "amazing",
        "beautiful",
        "breathtaking",
        "captivating",
        "charming",
        "chic",
        "delightful",
        "enchanting",
        "exquisite",
        "gorgeous",
        "lovely",
        "magical",
        "majestic",
        "mesmerizing",
        "picturesque",
        "serene",
        "stunning",
        "whimsical",
        "wonderful",
    }
)
"""Adjectives that say how to feel about a picture and not what is in it."""

_NO_NOUN = (
    r"(?:and|or|but|about|above|against|among|at|before|behind|below|beside|between|by|for|from|in|inside|into|near|"
    r"next|of|off|on|onto|outside|over|to|toward|towards|under|when|where|while|with)\b"
)
"""What follows an adjective that describes nothing after it: "the light is beautiful behind a mug"."""
_QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'})
_MARKER = re.compile(r"^\s*(?:\(?\d{1,3}[.):](?:\s+|(?=[^\W\d_]|[\"'*]))|[-*+\u2022\u2013]\s+)")
_MARKUP = re.compile(r"\*\*|__|`")


def clean(text: str) -> str:
    """One line of plain text: no list marker, markup, wrapping quotes, doubled blanks or emotive adjectives."""
    plain = unicodedata.normalize("NFC", text).translate(_QUOTES)
    plain = _MARKUP.sub("", _MARKER.sub("", plain))
    plain = " ".join(plain.split())
    if len(plain) > 1 and plain[0] == plain[-1] and plain[0] in "\"'":
        plain = plain[1:-1].strip()
    return remove_adjectives(plain, EMOTIVE_WORDS)


def remove_adjectives(text: str, words: Collection[str]) -> str:
    """`text` without those of `words` that stand before another word, with "a" and "an" put right after it.

    Case does not matter. A word is left where it is part of another one, hyphens included ("well-worn" keeps its
    "worn"), and at the end of a phrase ("the view is serene", "is serene behind a mug"), where it cannot be dropped.
    """
    listed = "|".join(sorted(map(re.escape, words)))
    adjective = (
        rf"(?:(?:very|truly|really|quite|so)\s+)?(?<![\w-])(?:{listed})(?![\w-])(?:,\s*|\s+and\s+|\s+)(?!{_NO_NOUN})"
    )
    pattern = re.compile(rf"(?P<article>\ban?\s+)?(?:{adjective})+(?P<next>\w+)", re.IGNORECASE)

    def without(found: re.Match[str]) -> str:
        following = found["next"]
        if not found["article"]:
            return following
        article = article_for(following)
        return f"{article.capitalize() if found['article'][0] == 'A' else article} {following}"

    return pattern.sub(without, text)
