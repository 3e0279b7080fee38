"""Subjects that are described in words: categories and their kinds, as the deformable branch takes them."""

import re
from collections.abc import Mapping, Sequence

from data.assets.base import AssetCandidate, RejectedAsset, SourceError
from data.assets.captions import with_article

LICENCE = "CC0-1.0"
"""Of the list of names; there is no other material behind a subject."""


class SubjectsSource:
    """`per_kind` objects of every kind ("siamese") of every category ("cat"); a category without kinds is its own.

    All objects of a kind are one series: their appearances are asked for together, so that they differ. Raises
    SourceError for an empty list and for names that give the same id.
    """

    name = "subjects"

    def __init__(self, categories: Mapping[str, Sequence[str]], per_kind: int) -> None:
        self._assets: dict[str, AssetCandidate] = {}
        for category, kinds in categories.items():
            if not re.search(r"[a-zA-Z]", category) or not all(re.search(r"[a-zA-Z]", kind) for kind in kinds):
                raise SourceError(f"assets.subjects: {category!r}: {list(kinds)}; categories and kinds must be words")
            for kind in kinds or (category,):
                for number in range(per_kind):
                    self._add(_describe(category, kind, number, per_kind))
        if not self._assets:
            raise SourceError("assets.subjects is empty; name categories and their kinds, for example {cat: [siamese]}")

    def _add(self, asset: AssetCandidate) -> None:
        other = self._assets.setdefault(asset.id, asset)
        if other is not asset:
            raise SourceError(f"assets.subjects: {asset.uri} and {other.uri} give the same id {asset.id!r}; rename one")

    def candidates(self) -> list[AssetCandidate]:
        return [self._assets[key] for key in sorted(self._assets)]

    def rejected(self) -> list[RejectedAsset]:
        return []

    def fetch(self, candidate: AssetCandidate) -> None:
        """There is no mesh."""


def series_of(object_id: str) -> str:
    """The part of a subject's id that it shares with the others of its kind."""
    return object_id.rpartition("-")[0]


def _describe(category: str, kind: str, number: int, per_kind: int) -> AssetCandidate:
    parts = [category] if kind == category else [category, kind]
    name = "-".join(re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-") for part in parts)
    return AssetCandidate(
        id=f"{name}-{number:03d}",
        category=category,
        caption=with_article(category),
        licence=LICENCE,
        uri=f"subject:{'/'.join(parts)}#{number}",
        attributes={"kind": kind, "number": number, "of": per_kind},
    )
