"""What the cards of a dataset and of a checkpoint have in common: front matter, tables and the licence in words."""

import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from data.assets.licences import SPDX
from data.release.licensing import AND, OutputLicence
from data.release.terms import address_of

QUESTIONS = {
    "commercial_use": "commercial use",
    "attribution_required": "credit or a notice required",
    "share_alike": "share alike",
    "derivatives_allowed": "derived works allowed",
}
NO_ADVICE = (
    "Worked out by a program from the terms that its inputs state; no legal advice, and it grants nothing beyond these "
    "terms. The stricter reading was taken where there are two."
)
_HUB_NAMES = {name: name.lower() for name in SPDX if name != "SCEA"} | {"PDDL-1.0": "pddl"}


def front_matter(fields: Mapping[str, Any]) -> str:
    """The YAML head that hubs of models and datasets read."""
    return f"---\n{yaml.safe_dump(dict(fields), sort_keys=False, allow_unicode=True, width=110)}---\n"


def hub_licence(expression: str, link: str) -> dict[str, str]:
    """The front matter's licence: one that the hub has a name for, else another, described at `link`."""
    if expression in _HUB_NAMES:
        return {"license": _HUB_NAMES[expression]}
    return {"license": "other", "license_name": expression, "license_link": link}


def licence_section(licence: OutputLicence) -> str:
    """A table of what is allowed and why, further conditions, and what does not fit together."""
    rows = {
        words: (getattr(licence, name), "; ".join(licence.reasons.get(name, [])) or "no input asks otherwise")
        for name, words in QUESTIONS.items()
    }
    lines = ["| | | because of |", "|---|---|---|"]
    lines += [f"| {words} | {answer} | {_cell(why)} |" for words, (answer, why) in rows.items()]
    parts = [f"**{licence.expression}** {_addresses(licence.expression)}".rstrip(), "\n".join(lines)]
    parts += [paragraph(f"**Mind**: {problem}") for problem in licence.problems]
    for name, conditions in licence.conditions.items():
        parts.append(f"Further conditions of the {name}:\n{bullets(conditions)}")
    return "\n\n".join([*parts, paragraph(NO_ADVICE)])


def licence_in_words(licence: OutputLicence) -> list[str]:
    """The same in sentences, for a field of plain text."""
    said = [f"Licence: {licence.expression}."]
    said += [f"{words.capitalize()}: {getattr(licence, name)}." for name, words in QUESTIONS.items()]
    said += [f"{name.capitalize()}: {text}." for name, own in licence.conditions.items() for text in own]
    return [*said, *licence.problems, NO_ADVICE]


def _addresses(expression: str) -> str:
    found = [address for part in expression.split(AND) if (address := address_of(part))]
    return f"({', '.join(found)})" if found else ""


def bullets(lines: Iterable[str]) -> str:
    return "\n".join(
        textwrap.fill(" ".join(line.split()), 120, initial_indent="- ", subsequent_indent="  ", break_long_words=False)
        for line in lines
    )


def paragraph(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def table(header: tuple[str, str], rows: Mapping[str, object]) -> str:
    cells = [(_cell(name), _cell(value)) for name, value in rows.items()]
    return "\n".join(f"| {left} | {right} |" for left, right in (header, ("---", "---"), *cells))


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")
