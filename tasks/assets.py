"""Assets: every mesh as GLB with its caption, licence and digests, and the objects held out for evaluation."""

import hashlib
import json
import time
from collections import Counter
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from configs.schema import Assets
from data.assets.base import AssetCandidate, AssetError, AssetSource, FetchedMesh, SourceError
from data.assets.folder import FolderSource
from data.assets.objaverse import ObjaverseSource
from data.assets.stored import StoredFolderSource
from data.assets.subjects import SubjectsSource
from data.ids import canonical_json, digest_of, held_out_of, seed_for
from data.records import AssetRecord
from data.revocation import REVOKED_AGAIN, REVOKED_FILE
from data.shards import ShardIndex, ShardWriter
from data.stage import ShardSpec, StageContext, chunk
from data.store import is_url
from models.miniature.assets import MiniatureSource

PAUSES_SECONDS = (1.0, 5.0)
"""Between tries of an asset that could not be fetched for a passing reason."""
FILTERED_REASONS = frozenset({REVOKED_AGAIN})


def open_source(section: Assets, seed: int, options: dict[str, Any], workspace: Path) -> AssetSource:
    """The source that the recipe names; reads no mesh yet. Relative paths are relative to `workspace`."""

    def path(name: str | None) -> Path | None:
        return workspace / name if name else None

    if section.source == "miniature":
        return MiniatureSource(
            count=section.count,
            seed=seed,
            caption_detail=section.caption_detail,
            licences=section.licences,
            categories=section.categories,
            described=section.described,
        )
    if section.source == "subjects":
        return SubjectsSource(section.subjects, section.per_kind)
    if section.source == "folder":
        told = {"licences": section.licences, "default_licence": section.default_licence}
        if is_url(section.folder):
            return StoredFolderSource(section.folder, captions=path(section.captions), **told)
        return FolderSource(workspace / section.folder, captions=path(section.captions), **told)
    return ObjaverseSource(
        cache=Path(options["objaverse_cache"]) if options.get("objaverse_cache") else None,
        captions=path(section.captions),
        licences=section.licences,
        uids=path(section.uids),
        digests=path(section.digests),
        offline=options.get("offline", True),
    )


@dataclass(frozen=True)
class Opened:
    """A source, the ids that the recipe takes from it, which of them are held out, and what is known of each."""

    source: AssetSource
    keys: tuple[str, ...]
    held_out: frozenset[str]
    candidates: dict[str, AssetCandidate]


def opened(ctx: StageContext) -> Opened:
    """The source of this run, opened once per process: its listing may take a while."""
    return _opened(ctx.recipe.assets.model_dump_json(), ctx.recipe.seed, canonical_json(ctx.options), ctx.workspace)


@lru_cache(maxsize=4)
def _opened(recipe_section: str, seed: int, options: bytes, workspace: Path) -> Opened:
    section = Assets.model_validate_json(recipe_section)
    source = open_source(section, seed, json.loads(options), workspace)
    listed = source.candidates()
    keys = [candidate.id for candidate in listed]
    if section.count:
        keys = sorted(keys, key=lambda key: seed_for(seed, "assets", key))[: section.count]
    held_out = held_out_of(keys, section.eval_share, section.split_seed)
    wanted = set(keys)
    return Opened(source, tuple(keys), held_out, {own.id: own for own in listed if own.id in wanted})


def plan(ctx: StageContext) -> list[ShardSpec]:
    """One key per object. A `count` smaller than the source takes a seeded choice of ids, nested in larger ones."""
    source, keys = opened(ctx).source, opened(ctx).keys
    if not keys:
        reasons = dict(Counter(asset.reason for asset in source.rejected()))
        raise SourceError(f"assets: the {source.name} source offers no usable object; rejected by reason: {reasons}")
    return chunk(keys, ctx.recipe.assets.shard_size)


def run_shard(ctx: StageContext, spec: ShardSpec, out: ShardWriter) -> None:
    section = ctx.recipe.assets
    source, held_out, candidates = opened(ctx).source, opened(ctx).held_out, opened(ctx).candidates
    for key in spec.keys:
        candidate = candidates[key]
        try:
            mesh = _fetch(source, candidate)
        except AssetError as error:
            out.fail(key, error.reason, error.detail)
            continue
        record = AssetRecord(
            object_id=key,
            split="eval" if key in held_out else "train",
            category=candidate.category,
            caption=candidate.caption,
            licence=candidate.licence,
            source=section.source,
            uri=candidate.uri,
            attributes=dict(candidate.attributes),
            **_origin(candidate, mesh),
        )
        if gone := ctx.revoked.files & {record.source_sha256, record.mesh_sha256}:
            out.fail(key, REVOKED_AGAIN, f"sha256 {min(gone)} was taken down; {REVOKED_FILE} says why")
            continue
        out.add(key, record, {"glb": mesh.data} if mesh else {})


def _origin(candidate: AssetCandidate, mesh: FetchedMesh | None) -> dict[str, Any]:
    """What the record says of the mesh; of an object in words, its description stands in for the file."""
    if mesh is None:
        described = {"uri": candidate.uri, "caption": candidate.caption, "attributes": dict(candidate.attributes)}
        return {
            "source_sha256": digest_of(described),
            "source_format": "words",
            "outcome": "described",
            "mesh_sha256": None,
        }
    return {
        "source_sha256": mesh.sha256,
        "source_format": mesh.original_format,
        "outcome": mesh.outcome,
        "mesh_sha256": hashlib.sha256(mesh.data).hexdigest(),
        "side_files": dict(mesh.side_files),
    }


def _fetch(source: AssetSource, candidate: AssetCandidate) -> FetchedMesh | None:
    """Tried again after a pause where that may help: an asset that stays out of reach is a failed key, not a crash."""
    for pause in PAUSES_SECONDS:
        try:
            return source.fetch(candidate)
        except AssetError as error:
            if not error.transient:
                raise
        time.sleep(pause)
    return source.fetch(candidate)


def finalize(ctx: StageContext, index: ShardIndex, out_dir: Path) -> dict[str, Any]:
    """Writes `rejected.jsonl`: the objects that the source or the licence allow-list ruled out, with the reason."""
    rejected = [asdict(asset) for asset in opened(ctx).source.rejected()]
    lines = [canonical_json(asset).decode() + "\n" for asset in rejected]
    (out_dir / "rejected.jsonl").write_text("".join(lines), encoding="utf-8")
    held_out = opened(ctx).held_out
    return {
        "objects": len(index.keys),
        "held_out": sum(key in held_out for key in index.keys),
        "held_out_objects": sorted(held_out.intersection(index.keys)),
        "rejected": dict(Counter(asset["reason"] for asset in rejected)),
    }
