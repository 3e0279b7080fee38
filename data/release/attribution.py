"""Credit to the assets of a published dataset: ATTRIBUTION.md for people, attribution.csv for programs."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path

from data.outside_text import csv_text
from data.published import PublishedAsset, SetOrigin
from data.release.terms import address_of, terms_of

CHANGES = "rendered from several viewpoints; new images were generated from the renderings"
CHANGES_OF_WORDS = "new images were generated from the description"
_SPECIAL = re.compile(r"([\\`*_{}\[\]()<>#|!~])")
_WEB = re.compile(r"https?://[^\s<>()\"]+")


@dataclass(frozen=True)
class Credit:
    """One asset whose licence asks for credit, or whose terms nobody here knows."""

    object_id: str
    title: str
    """The object's id where the source has no title."""
    author: str
    """Empty where the source names nobody."""
    source: str
    """Address of the asset's page, else what the source calls it."""
    licence: str
    licence_url: str
    """Empty for a licence of somebody's own."""
    changes: str
    sets: str
    """The sets made from it, separated by blanks."""


def credits_of(records: Iterable[SetOrigin]) -> list[Credit]:
    """In the order of licence and object; one for each asset, whatever its number of sets."""
    sets: dict[str, list[str]] = {}
    assets: dict[str, PublishedAsset] = {}
    for record in records:
        if terms_of(record.asset.licence).attribution is not False:
            sets.setdefault(record.object_id, []).append(record.set_id)
            assets[record.object_id] = record.asset
    credits = [_credit(name, asset, sets[name]) for name, asset in assets.items()]
    return sorted(credits, key=lambda credit: (credit.licence, credit.object_id))


def _credit(object_id: str, asset: PublishedAsset, sets: list[str]) -> Credit:
    return Credit(
        object_id=object_id,
        title=asset.title or object_id,
        author=asset.author or "",
        source=asset.page or asset.uri,
        licence=asset.licence,
        licence_url=address_of(asset.licence) or "",
        changes=CHANGES if asset.mesh_sha256 else CHANGES_OF_WORDS,
        sets=" ".join(sorted(sets)),
    )


def write_attribution(credits: list[Credit], title: str, folder: Path) -> None:
    (folder / "ATTRIBUTION.md").write_text(attribution_text(credits, title), encoding="utf-8")
    (folder / "attribution.csv").write_text(attribution_csv(credits), encoding="utf-8", newline="")


def attribution_csv(credits: list[Credit]) -> str:
    """A header and one line per asset; equal credits give equal bytes."""
    names = [item.name for item in fields(Credit)]
    return csv_text([names, *([getattr(credit, name) for name in names] for credit in credits)])


def attribution_text(credits: list[Credit], title: str) -> str:
    if not credits:
        return f"# Credits of {_plain(title)}\n\nNo asset behind this dataset asks for credit.\n"
    parts = [
        f"# Credits of {_plain(title)}\n\n"
        "The images of this dataset were generated with the help of the works below. Credit goes to their authors,\n"
        "who have not endorsed the dataset. Whoever passes on images of a set passes on the credit of its asset.\n"
        "`attribution.csv` holds the same for programs.\n"
    ]
    for licence, group in groupby(credits, key=lambda credit: credit.licence):
        own = list(group)
        address = f"Text of the licence: <{own[0].licence_url}>" if own[0].licence_url else _unknown(licence)
        parts.append(f"\n## {licence}: {len(own)} {'work' if len(own) == 1 else 'works'}\n\n{address}\n\n")
        parts += [_line(credit) for credit in own]
    return "".join(parts)


def _unknown(licence: str) -> str:
    return f"{licence} is no licence of the SPDX list: ask whoever made the dataset for its terms."


def _line(credit: Credit) -> str:
    author = _plain(credit.author) if credit.author else "an author whom the source does not name"
    source = " ".join(credit.source.split())
    source = f"<{source}>" if _WEB.fullmatch(source) else f"`{source.replace('`', '')}`"
    sets = ", ".join(f"`{name}`" for name in credit.sets.split())
    return (
        f'- "{_plain(credit.title)}" by {author}, {source}, {credit.licence}. Changes: {credit.changes}. Sets: {sets}\n'
    )


def _plain(text: str) -> str:
    """One line of text that Markdown shows as it is."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
