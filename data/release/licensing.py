"""The licence of a dataset or checkpoint, worked out from the terms of everything that went into it.

What one input forbids, all of it forbids: non-commercial, share-alike, credit and further conditions propagate, and
what nobody knows of one input is unknown of the whole. Licences of assets become one where the Creative Commons
licences allow that, else there is none for the whole and the terms stay with each set.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from data.release.terms import PUBLIC_DOMAIN, Terms, output_terms_of, terms_of

MIXED = "LicenseRef-mixed"
"""Stands for "no one licence covers all sets"."""
AND = " AND "

Answer = Literal["yes", "no", "unknown"]
_CREATIVE_COMMONS = re.compile(r"CC-BY(-NC)?(-SA)?-([0-9.]+)")
"""Without the no-derivatives ones, which merge with nothing."""


@dataclass(frozen=True)
class Input:
    """Something that went into a work."""

    name: str
    licence: str
    """SPDX identifier, or an expression of several."""
    terms: Terms
    kind: Literal["asset", "model", "dataset"]


@dataclass(frozen=True)
class OutputLicence:
    """What may be done with the work. Plain values, so that it can be stored as JSON."""

    expression: str
    """SPDX expression; every part of it has to be kept."""
    commercial_use: Answer
    attribution_required: Answer
    share_alike: Answer
    derivatives_allowed: Answer
    reasons: dict[str, list[str]] = field(default_factory=dict)
    """Name of an answer above -> the inputs that force it."""
    conditions: dict[str, list[str]] = field(default_factory=dict)
    """Input -> what else it asks."""
    problems: list[str] = field(default_factory=list)
    """Terms that contradict each other, or leave the work without one licence."""

    @property
    def terms(self) -> Terms:
        """As the terms of an input of something else."""
        known = {"yes": True, "no": False, "unknown": None}
        return Terms(
            attribution=known[self.attribution_required],
            share_alike=known[self.share_alike],
            commercial=known[self.commercial_use],
            derivatives=known[self.derivatives_allowed],
            conditions=tuple(f"{name}: {text}" for name, own in self.conditions.items() for text in own),
        )


def asset_inputs(licences: dict[str, int]) -> list[Input]:
    """One input per licence of the assets; `licences`: objects by licence."""
    return [
        Input(f"assets under {licence} ({count})", licence, terms_of(licence), "asset")
        for licence, count in sorted(licences.items())
    ]


def maker(role: str, name: str, licence: str) -> Input:
    """A model that made a part of the work."""
    return Input(f"{role} {name}", licence, output_terms_of(licence), "model")


def base_model(name: str, licence: str) -> Input:
    """A model that the work is a modified version of."""
    return Input(f"base model {name}", licence, terms_of(licence), "model")


def conclude(inputs: Sequence[Input]) -> OutputLicence:
    """The licence of what was made from all these inputs; ValueError without any."""
    if not inputs:
        raise ValueError("nothing to work a licence out from; name the inputs of the work")
    answers: dict[str, Answer] = {}
    reasons: dict[str, list[str]] = {}
    for name, term, restrictive in (
        ("commercial_use", "commercial", False),
        ("attribution_required", "attribution", True),
        ("share_alike", "share_alike", True),
        ("derivatives_allowed", "derivatives", False),
    ):
        answers[name], forced_by = _strictest(inputs, term, restrictive)
        if forced_by:
            reasons[name] = forced_by
    assets = sorted({item.licence for item in inputs if item.kind == "asset"})
    of_assets = merged(assets) if assets else None
    return OutputLicence(
        expression=_expression(of_assets, inputs),
        reasons=reasons,
        conditions={item.name: list(item.terms.conditions) for item in inputs if item.terms.conditions},
        problems=_problems(of_assets, assets, inputs),
        **answers,
    )


def _strictest(inputs: Iterable[Input], term: str, restrictive: bool) -> tuple[Answer, list[str]]:
    """The answer that the strictest input forces, and the inputs that do."""
    word: dict[bool, Answer] = {True: "yes", False: "no"}
    forcing = [item.name for item in inputs if getattr(item.terms, term) is restrictive]
    if forcing:
        return word[restrictive], forcing
    unknown = [item.name for item in inputs if getattr(item.terms, term) is None]
    return ("unknown", unknown) if unknown else (word[not restrictive], [])


def merged(licences: Sequence[str]) -> str:
    """The one licence under which works made from all these may be shared; MIXED if there is none.

    Public domain asks nothing. CC BY works may become part of a work under any licence of the family, BY-NC of one
    that keeps NC. Share-alike allows its own licence alone, in the same or a later version, so that BY-SA goes neither
    with BY-NC nor with BY-NC-SA.
    """
    asking = [licence for licence in licences if licence not in PUBLIC_DOMAIN]
    if len(asking) <= 1:
        return asking[0] if asking else min(licences)
    found = [_CREATIVE_COMMONS.fullmatch(licence) for licence in asking]
    if not all(found):
        return MIXED
    nc = {bool(item[1]) for item in found if item}
    nc_of_share_alike = {bool(item[1]) for item in found if item and item[2]}
    version = max((item[3] for item in found if item), key=lambda text: [int(part) for part in text.split(".")])
    if nc_of_share_alike and (len(nc_of_share_alike) == 2 or (True in nc and False in nc_of_share_alike)):
        return MIXED
    return f"CC-BY{'-NC' if True in nc else ''}{'-SA' if nc_of_share_alike else ''}-{version}"


def _expression(of_assets: str | None, inputs: Iterable[Input]) -> str:
    """The parts that ask something, the assets' first; public domain or a permissive part where nothing does."""
    others = [item for item in inputs if item.kind != "asset"]
    parts = [of_assets] if of_assets else []
    parts += [part for item in others if not item.terms.ask_nothing for part in item.licence.split(AND)]
    distinct = list(dict.fromkeys(parts))
    asking = [part for part in distinct if part not in PUBLIC_DOMAIN]
    return AND.join(asking or distinct[:1] or sorted({item.licence for item in others})[:1])


def _problems(of_assets: str | None, assets: Sequence[str], inputs: Sequence[Input]) -> list[str]:
    found = []
    if of_assets == MIXED:
        found.append(
            f"No single licence covers works made from assets under {', '.join(assets)}: each set has the terms of its "
            "own asset, which its record names."
        )
    free = [item for item in inputs if item.kind == "asset" and item.terms.share_alike and item.terms.commercial]
    closed = [item for item in inputs if item.kind == "model" and item.terms.commercial is False]
    found += [
        f"The {one.name} want what is made from them to be free for commercial use, the {other.name} "
        f"({other.licence}) does not allow that: no licence keeps both for the sets of these assets."
        for one in free
        for other in closed
    ]
    found += [
        f"The {item.name} allow no sharing of what is made from them, and the images are: publishing these sets needs "
        "the leave of the assets' owners."
        for item in inputs
        if item.kind == "asset" and item.terms.derivatives is False
    ]
    return found
