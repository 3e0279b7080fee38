"""Render: K placed views per set, chosen so that every pair overlaps; sets of an object without mesh have no views."""

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from data.cameras import fitting_distance, sample_hemisphere
from data.depth import encode_depth16
from data.ids import object_of, seed_for, set_id_of
from data.images import encode_png
from data.mesh_errors import MeshError
from data.placement import choose_view_sets, draw_placement, pairwise_overlap
from data.records import AssetRecord, RenderRecord, ViewRecord
from data.rendering import Renderer, View
from data.sandbox.client import read_shape
from data.shards import Sample, ShardIndex, ShardWriter, read_records
from data.stage import ShardSpec, StageContext, chunk

FILTERED_REASONS = frozenset({"too_few_views"})
"""The mesh is good and holds no further set: no failure, so the budget does not count it."""


def plan(ctx: StageContext) -> list[ShardSpec]:
    """One key per set; the sets of an object share a shard, so that its mesh is loaded once."""
    return [
        ShardSpec(group.index, tuple(sorted(key for name in group.keys for key in _set_ids(ctx, name))))
        for group in chunk(ctx.planned("assets"), ctx.recipe.render.shard_size)
    ]


def _set_ids(ctx: StageContext, object_id: str) -> list[str]:
    return [set_id_of(object_id, number) for number in range(ctx.recipe.render.max_sets)]


def run_shard(ctx: StageContext, spec: ShardSpec, out: ShardWriter) -> None:
    made: dict[str, tuple[RenderRecord, dict[str, bytes]]] = {}
    objects = sorted({object_of(key) for key in spec.keys})
    for sample in ctx.read("assets", objects):
        asset = AssetRecord.model_validate(sample.record)
        wanted = _set_ids(ctx, asset.object_id)
        if asset.mesh_sha256 is None:
            made |= {key: _set(asset, number, [], {}) for number, key in enumerate(wanted)}
            continue
        try:
            sets, shortage = render_object(ctx, asset, sample)
        except MeshError as error:
            for key in wanted:
                out.fail(key, error.reason, error.detail)
            continue
        made |= {record.set_id: (record, files) for record, files in sets}
        for key in wanted[len(sets) :]:
            out.fail(key, "too_few_views", shortage)
    for key in sorted(made):
        out.add(key, *made[key])


def render_object(
    ctx: StageContext, asset: AssetRecord, sample: Sample
) -> tuple[list[tuple[RenderRecord, dict[str, bytes]]], str]:
    """The sets of one object, and why there are not more. Raises MeshError for a mesh that is no good."""
    section = ctx.recipe.render
    rng = np.random.default_rng(seed_for(ctx.recipe.seed, "render", asset.object_id))
    shape = read_shape(sample.files["glb"], "glb", max_faces=section.max_faces)
    cameras = sample_hemisphere(
        section.candidate_views,
        rng,
        section.max_elevation_deg,
        fov_deg=section.fov_deg,
        distance=fitting_distance(section.fov_deg, shape.radius),
        width=section.resolution,
        height=section.resolution,
    )
    with renderer_of(section.resolution).load(shape.surfaces) as loaded:
        candidates = [loaded.render(camera) for camera in cameras]
        large = [view for view in candidates if view.mask.mean() >= section.min_area]
        overlap = pairwise_overlap(large, section.overlap_grid, section.tolerance)
        chosen = choose_view_sets(overlap, section.views_per_set, section.min_overlap, section.max_sets)
        shortage = (
            f"{len(large)} of {len(candidates)} views fill at least {section.min_area:g} of the frame, and they hold "
            f"{len(chosen)} sets of {section.views_per_set} that overlap pairwise by {section.min_overlap:g}"
        )
        sets = []
        for number, members in enumerate(chosen):
            views = []
            for member in members:
                placement = draw_placement(large[member].mask, rng, section.min_area)
                if placement is None:
                    raise RuntimeError(f"{asset.object_id}: view {member} was large enough and now is not")
                camera = large[member].camera.placed(placement.scale, placement.dx, placement.dy)
                views.append(loaded.render(camera))
            shares = {
                f"{i}-{j}": round(float(overlap[members[i], members[j]]), 6)
                for i in range(len(members))
                for j in range(i + 1, len(members))
            }
            sets.append(_set(asset, number, views, shares))
        return sets, shortage


def _set(
    asset: AssetRecord, number: int, views: list[View], overlaps: dict[str, float]
) -> tuple[RenderRecord, dict[str, bytes]]:
    records, files = [], {}
    for index, view in enumerate(views):
        depth, near, far = encode_depth16(view.depth)
        files[f"{index}.rgb.png"] = encode_png(np.dstack([view.rgb, view.alpha]))
        files[f"{index}.depth.png"] = depth
        files[f"{index}.mask.png"] = encode_png(view.mask)
        records.append(
            ViewRecord(
                camera=view.camera.to_dict(),
                near=near,
                far=far,
                area=round(float(view.mask.mean()), 6),
                azimuth_deg=round(view.camera.azimuth_deg, 6),
                elevation_deg=round(view.camera.elevation_deg, 6),
            )
        )
    record = RenderRecord(
        set_id=set_id_of(asset.object_id, number),
        object_id=asset.object_id,
        split=asset.split,
        category=asset.category,
        licence=asset.licence,
        mesh_sha256=asset.mesh_sha256,
        views=records,
        overlaps=overlaps,
    )
    return record, files


_own = threading.local()


def renderer_of(resolution: int) -> Renderer:
    """One per worker thread: an OpenGL context is slow to make and belongs to its thread."""
    renderers: dict[int, Renderer] = _own.__dict__.setdefault("renderers", {})
    if resolution not in renderers:
        renderers[resolution] = Renderer(resolution, resolution)
    return renderers[resolution]


def finalize(ctx: StageContext, index: ShardIndex, out_dir: Path) -> dict[str, Any]:
    """Numbers of sets, and which of them are held out; the generate stage leaves those alone."""
    held_out, areas, overlaps = [], [], []
    for sample in read_records(out_dir, index):
        if sample.record["split"] == "eval":
            held_out.append(sample.key)
        areas += [view["area"] for view in sample.record["views"]]
        overlaps += list(sample.record["overlaps"].values())
    return {
        "sets": len(index.keys),
        "held_out_sets": sorted(held_out),
        "mean_area": round(float(np.mean(areas)), 4) if areas else None,
        "mean_overlap": round(float(np.mean(overlaps)), 4) if overlaps else None,
        "failed": dict(Counter(failure.reason for failure in index.failed)),
    }
