"""Objaverse 1.0 as an asset source: LVIS subset or a list of uids, Cap3D captions, per-object licences."""

import re
from collections.abc import Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from data.assets.base import AssetCandidate, AssetListing, FetchedMesh, RejectedAsset, SourceError, listing_of
from data.assets.captions import head_noun, read_cap3d, read_digests
from data.assets.licences import UnknownLicenceError, allow_list, normalise
from data.assets.objaverse_cache import ObjaverseCache, default_cache
from data.ids import OBJECT_ID

URI_PREFIX = "hf://datasets/allenai/objaverse/"
_KEPT_FIELDS = ("license", "name", "user", "viewerUrl")


class ObjaverseSource:
    """Assets are named by their Objaverse uid.

    cache: folder of the package (layout: `data.assets.objaverse_cache`), None for ~/.objaverse.
    captions: CSV uid,caption as Cap3D publishes it; objects without a caption are rejected.
    licences: allow-list; the licence is the object's own, out of its annotation.
    uids: file with one uid a line; None takes the LVIS subset.
    digests: CSV uid,sha256 of the expected files. A mesh with another digest fails as `modified`; a mesh without
        an expected digest is `first_seen`, and what the asset records then say can be the expected one of later runs.
    offline: never try the network, as the variables of the Hugging Face libraries also ask (HF_HUB_OFFLINE ...).

    The category is the LVIS category (the first by name if there are several, all of them in the attributes), for
    objects outside LVIS the noun of the caption.
    """

    name = "objaverse"

    def __init__(
        self,
        cache: Path | None,
        captions: Path | None,
        licences: Collection[str],
        uids: Path | None,
        digests: Path | None,
        offline: bool,
    ) -> None:
        if captions is None:
            raise SourceError(
                "assets.captions is not set; the objaverse source needs a CSV of uid,caption: "
                "Cap3D_automated_Objaverse_full.csv of the dataset tiange/Cap3D on Hugging Face"
            )
        self._cache = ObjaverseCache(cache or default_cache(), offline)
        self._allowed = allow_list(licences)
        self._captions_file = captions
        self._uids = read_uids(uids) if uids else None
        self._digests = read_digests(digests) if digests else {}

    def candidates(self) -> list[AssetCandidate]:
        return list(self._listing.accepted)

    def rejected(self) -> list[RejectedAsset]:
        return list(self._listing.rejected)

    @cached_property
    def _listing(self) -> AssetListing:
        paths = self._cache.object_paths()
        categories = _categories_by_uid(self._cache.lvis())
        wanted = sorted(set(categories if self._uids is None else self._uids))
        known = {uid: paths[uid] for uid in wanted if uid in paths and OBJECT_ID.fullmatch(uid)}
        annotations = self._cache.annotations(known, _KEPT_FIELDS)
        captions = read_cap3d(self._captions_file)
        accepted: list[AssetCandidate] = []
        rejected: list[RejectedAsset] = []
        for uid in wanted:
            if uid not in known or uid not in annotations:
                what = "the list of meshes" if uid not in known else "the annotations"
                rejected.append(RejectedAsset(uid, "not_in_objaverse", f"{uid!r} is not in {what}", ""))
                continue
            caption = captions.get(uid, "")
            verdict = self._judge(uid, URI_PREFIX + paths[uid], caption, categories.get(uid, []), annotations[uid])
            (accepted if isinstance(verdict, AssetCandidate) else rejected).append(verdict)
        return listing_of(accepted, rejected)

    def _judge(
        self, uid: str, uri: str, caption: str, categories: list[str], annotation: Mapping[str, Any]
    ) -> AssetCandidate | RejectedAsset:
        given = annotation["license"]
        try:
            licence = normalise(given or "")
        except UnknownLicenceError:
            return RejectedAsset(uid, "licence_unknown", f"annotation says {given!r}", uri)
        if licence not in self._allowed:
            detail = f"{licence}; allowed: {', '.join(sorted(self._allowed))}"
            return RejectedAsset(uid, "licence_not_allowed", detail, uri)
        if not caption:
            return RejectedAsset(uid, "no_caption", f"{self._captions_file.name} has none for it", uri)
        user = annotation["user"] or {}
        attributes = {
            "title": annotation["name"] or "",
            "author": user.get("displayName") or user.get("username") or "",
            "page": annotation["viewerUrl"] or "",
            "lvis_categories": categories,
        }
        return AssetCandidate(
            uid, categories[0] if categories else head_noun(caption), caption, licence, uri, attributes
        )

    def fetch(self, candidate: AssetCandidate) -> FetchedMesh:
        """The mesh as published, byte for byte. Raises AssetError as `ObjaverseCache.mesh` does."""
        expected = self._digests.get(candidate.id)
        data, sha256 = self._cache.mesh(candidate.id, candidate.uri.removeprefix(URI_PREFIX), expected)
        return FetchedMesh(data, sha256, "first_seen" if expected is None else "found", "glb")


def read_uids(path: Path) -> list[str]:
    """The uids of a file with one per line, sorted; `NNN-NNN/UID`, `#` comments and blank lines are accepted.

    Raises SourceError naming the line of anything else.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: cannot be read: {error}") from error
    uids = set()
    for number, line in enumerate(lines, start=1):
        text = line.partition("#")[0].strip().removesuffix(".glb")
        if not text:
            continue
        found = re.fullmatch(r"(?:[0-9]{3}-[0-9]{3}/)?([0-9a-z][0-9a-z_-]*)", text)
        if not found:
            raise SourceError(f"{path}, line {number}: {line!r} is not a uid; expected one uid a line")
        uids.add(found.group(1))
    return sorted(uids)


def _categories_by_uid(lvis: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """uid -> its LVIS categories as words: `mouse_(computer_equipment)` -> "mouse"."""
    found: dict[str, set[str]] = {}
    for category, uids in lvis.items():
        word = " ".join(re.sub(r"\(.*?\)", " ", category).replace("_", " ").lower().split())
        for uid in uids:
            found.setdefault(uid, set()).add(word)
    return {uid: sorted(words) for uid, words in found.items()}
