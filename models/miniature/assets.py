"""The procedural world as an asset source (`data.assets.base.AssetSource`)."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import asdict

from data.assets.base import AssetCandidate, AssetError, FetchedMesh, RejectedAsset, SourceError
from data.assets.licences import allow_list
from models.miniature.world import CATEGORIES, RIGID, ObjectSpec, caption, export_glb, parse_id, sample_specs

LICENCE = "CC0-1.0"
URI_PREFIX = "miniature:"


class MiniatureSource:
    """`count` objects drawn with `seed`, captioned in `caption_detail` (see `models.miniature.world.caption`).

    Attributes hold the spec of the object and its caption in full detail: the ground truth, whatever the caption
    leaves open. `categories` limits the choice (none: all rigid ones); with `described` there are no meshes: the
    object's looks are known from its attributes alone.
    """

    name = "miniature"

    def __init__(
        self,
        count: int,
        seed: int,
        caption_detail: str,
        licences: Collection[str] = (LICENCE,),
        categories: Sequence[str] = (),
        described: bool = False,
    ) -> None:
        if count < 1:
            raise SourceError(f"assets.count is {count}; the miniature's world has no end, so name a number of objects")
        unknown = sorted(set(categories) - set(CATEGORIES))
        if unknown:
            raise SourceError(f"assets.categories names {', '.join(unknown)}; the world has {', '.join(CATEGORIES)}")
        self._allowed = LICENCE in allow_list(licences)
        self._described = described
        specs = sample_specs(count, seed, categories=tuple(categories) or RIGID)
        self._assets = [_describe(spec, caption_detail) for spec in specs]

    def candidates(self) -> list[AssetCandidate]:
        return list(self._assets) if self._allowed else []

    def rejected(self) -> list[RejectedAsset]:
        if self._allowed:
            return []
        return [RejectedAsset(asset.id, "licence_not_allowed", LICENCE, asset.uri) for asset in self._assets]

    def fetch(self, candidate: AssetCandidate) -> FetchedMesh | None:
        """Build the mesh, if there is to be one. AssetError (missing) if the id names no object of this world."""
        if self._described:
            return None
        try:
            spec = parse_id(candidate.id)
        except ValueError as error:
            raise AssetError("missing", str(error)) from error
        data = export_glb(spec)
        return FetchedMesh(data, hashlib.sha256(data).hexdigest(), "generated", "glb")


def _describe(spec: ObjectSpec, detail: str) -> AssetCandidate:
    attributes = {**asdict(spec), "full_caption": caption(spec, "full")}
    return AssetCandidate(spec.id, spec.category, caption(spec, detail), LICENCE, f"{URI_PREFIX}{spec.id}", attributes)
