"""The procedural world as an asset source (`data.assets.base.AssetSource`)."""

import hashlib
from collections.abc import Collection
from dataclasses import asdict

from data.assets.base import AssetCandidate, AssetError, FetchedMesh, RejectedAsset, SourceError
from data.assets.licences import allow_list
from models.miniature.world import ObjectSpec, caption, export_glb, parse_id, sample_specs

LICENCE = "CC0-1.0"
URI_PREFIX = "miniature:"


class MiniatureSource:
    """`count` objects drawn with `seed`, captioned in `caption_detail` (see `models.miniature.world.caption`).

    Attributes hold the spec of the object and its caption in full detail: the ground truth, whatever the caption
    leaves open.
    """

    name = "miniature"

    def __init__(self, count: int, seed: int, caption_detail: str, licences: Collection[str] = (LICENCE,)) -> None:
        if count < 1:
            raise SourceError(f"assets.count is {count}; the miniature's world has no end, so name a number of objects")
        self._allowed = LICENCE in allow_list(licences)
        self._assets = [_describe(spec, caption_detail) for spec in sample_specs(count, seed)]

    def candidates(self) -> list[AssetCandidate]:
        return list(self._assets) if self._allowed else []

    def rejected(self) -> list[RejectedAsset]:
        if self._allowed:
            return []
        return [RejectedAsset(asset.id, "licence_not_allowed", LICENCE, asset.uri) for asset in self._assets]

    def fetch(self, candidate: AssetCandidate) -> FetchedMesh:
        """Build the mesh. Raises AssetError (missing) if the id names no object of this world."""
        try:
            spec = parse_id(candidate.id)
        except ValueError as error:
            raise AssetError("missing", str(error)) from error
        data = export_glb(spec)
        return FetchedMesh(data, hashlib.sha256(data).hexdigest(), "generated", "glb")


def _describe(spec: ObjectSpec, detail: str) -> AssetCandidate:
    attributes = {**asdict(spec), "full_caption": caption(spec, "full")}
    return AssetCandidate(spec.id, spec.category, caption(spec, detail), LICENCE, f"{URI_PREFIX}{spec.id}", attributes)
