"""Where a text names an object: whole words, any case, singular or plural."""

import re

from data.assets.captions import head_noun


def object_names(object_caption: str, category: str) -> tuple[str, ...]:
    """The nouns of which a caption must hold one: the category and the noun of the object's own caption."""
    return tuple(dict.fromkeys(name for name in (category.lower(), head_noun(object_caption)) if name))


def mentions(text: str, name: str) -> bool:
    """Whether `name` stands in `text`."""
    return bool(occurrences(text, name))


def occurrences(text: str, name: str) -> list[tuple[int, int]]:
    """(start, end) in characters of every place where `text` names it, in the singular or the plural."""
    *first, last = re.findall(r"\w+", name.lower())
    pattern = r"\W+".join([*map(re.escape, first), f"(?:{'|'.join(sorted(map(re.escape, _forms(last))))})"])
    return [found.span() for found in re.finditer(rf"(?<!\w){pattern}(?!\w)", text, re.IGNORECASE)]


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
