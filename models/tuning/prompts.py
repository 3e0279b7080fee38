"""Captions of tuning, and prompts that name the tuned object by its identifier."""

import re
from collections.abc import Sequence

from data.assets.captions import article_for, head_noun


def instance_prompt(template: str, token: str, noun: str) -> str:
    """Caption of a reference: "a {token} {noun}" -> "a sks mug"."""
    return _with_article(template.replace("{token}", token).replace("{noun}", noun), token)


def class_prompt(template: str, noun: str) -> str:
    """Caption of a class image, the same without identifier: "a {token} {noun}" -> "a mug"."""
    return _with_article(template.replace("{token} ", "").replace("{noun}", noun), noun)


def tuned_prompt(prompt: str, noun: str, token: str) -> str:
    """The prompt with the identifier before the first mention of the noun: "an apple on a table" -> "a sks apple ...".

    ValueError if the noun is not in the prompt as a word of its own, in capitals or not.
    """
    found = _mention(noun).search(prompt)
    if found is None:
        raise _lacks(prompt, noun)
    return _with_article(f"{prompt[: found.start()]}{token} {prompt[found.start() :]}", token)


def class_noun(category: str, caption: str, prompts: Sequence[str]) -> str:
    """What all `prompts` call the object: its category, else the caption or its noun. ValueError if nothing fits.

    The error names the first prompt that does not have the category (the caption's noun if there is none).
    """
    category = category.replace("_", " ").strip()
    without_article = re.sub(r"^(?:an?|the) ", "", caption.strip(), flags=re.IGNORECASE)
    candidates = [own for own in (category, without_article, head_noun(category), head_noun(caption)) if own]
    for noun in candidates:
        if all(_mention(noun).search(prompt) for prompt in prompts):
            return noun
    if not candidates:
        raise ValueError(f"no noun to tune for: category {category!r}, caption {caption!r}; name the object in one")
    lacking = next(prompt for prompt in prompts if not _mention(candidates[0]).search(prompt))
    raise _lacks(lacking, candidates[0])


def _lacks(prompt: str, noun: str) -> ValueError:
    return ValueError(f"the prompt {prompt!r} does not name the object by its noun {noun!r}; reword it")


def _mention(noun: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w-]){re.escape(noun)}(?![\w-])", re.IGNORECASE)


def _with_article(text: str, word: str) -> str:
    """`text` with "a" or "an" before the first `word`, if it has either there, by the sound of `word`."""

    def article(found: re.Match[str]) -> str:
        fitting = article_for(word)
        return fitting.capitalize() if found[0][0].isupper() else fitting

    return re.sub(rf"\ban?(?= {re.escape(word)}(?!\w))", article, text, count=1, flags=re.IGNORECASE)
