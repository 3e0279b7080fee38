"""What every source of objects offers: a listing that needs no mesh, and one mesh at a time as GLB."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, Protocol

Outcome = Literal["found", "first_seen", "generated"]


class SourceError(Exception):
    """The source as a whole cannot be used; the message ends with what to do about it."""


class AssetError(Exception):
    """One asset cannot be delivered.

    `reason` is a code to group by: missing, modified, corrupt, external_files, side_file_missing,
    side_file_refused, side_file_unreadable, unreadable, conversion, http, network, offline.
    `transient` says whether the same request may succeed later.
    """

    def __init__(self, reason: str, detail: str, transient: bool = False) -> None:
        super().__init__(reason, detail, transient)
        self.reason, self.detail, self.transient = reason, detail, transient

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


@dataclass(frozen=True)
class AssetCandidate:
    """An asset that may be used, known before its mesh is."""

    id: str
    """Matches `data.ids.OBJECT_ID`; the same wherever the source lies."""
    category: str
    """The noun of the object, for example `teddy bear`; empty if the source has none."""
    caption: str
    licence: str
    """SPDX identifier."""
    uri: str
    """Where the mesh comes from: enough for `fetch`, free of machine-specific paths."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """JSON values the source knows beyond that: author, title, ground truth."""


@dataclass(frozen=True)
class RejectedAsset:
    """An asset that the listing leaves out.

    `reason` is a code: licence_not_allowed, licence_unknown, no_caption, not_in_objaverse, unsupported_format,
    outside_folder.
    """

    id: str
    reason: str
    detail: str
    uri: str


@dataclass(frozen=True)
class AssetListing:
    """All that a source knows of, each part in ascending order of id."""

    accepted: tuple[AssetCandidate, ...]
    rejected: tuple[RejectedAsset, ...]


@dataclass(frozen=True)
class FetchedMesh:
    data: bytes
    """The mesh as GLB."""
    sha256: str
    """Digest (hex) of the file as it came, before any conversion."""
    outcome: Outcome
    """found: the digest is the expected one; first_seen: nothing was expected; generated: made here."""
    original_format: str
    """glb, gltf, obj or ply."""
    side_files: Mapping[str, str] = field(default_factory=dict)
    """Path relative to the asset's folder -> sha256 (hex) of every further file that went into `data`."""


class AssetSource(Protocol):
    """`name` is what records and recipes call it. All methods are deterministic."""

    name: str

    def candidates(self) -> list[AssetCandidate]:
        """Usable assets in ascending order of id, without fetching a mesh. Raises SourceError."""
        ...

    def rejected(self) -> list[RejectedAsset]:
        """Assets the listing left out, in ascending order of id, with reasons. Raises SourceError."""
        ...

    def fetch(self, candidate: AssetCandidate) -> FetchedMesh | None:
        """The mesh of one candidate, None if it is described in words only. Raises AssetError, for this asset alone."""
        ...


def listing_of(accepted: list[AssetCandidate], rejected: list[RejectedAsset]) -> AssetListing:
    """Both parts sorted by id; SourceError if two accepted assets share an id."""
    ordered = sorted(accepted, key=lambda asset: asset.id)
    for one, other in pairwise(ordered):
        if one.id == other.id:
            raise SourceError(f"two assets have the id {one.id!r}: {one.uri} and {other.uri}; rename one of them")
    return AssetListing(tuple(ordered), tuple(sorted(rejected, key=lambda asset: (asset.id, asset.uri))))
