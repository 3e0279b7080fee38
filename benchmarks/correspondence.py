"""How right correspondences are, against ray casting: `python -m benchmarks.correspondence [FILE.glb ...]`.

Reference: the surface point under each cell centre of A by ray casting, its exact projection into B, and whether the
ray from B's camera reaches it unobstructed. Columns: error in pixels of B of the matches whose point B sees;
false: share of matches whose point B does not see; far: share of matches that B sees, but more than 3 % of the image
away (the neighbouring surface at an edge of A); missed: share of visible points that were not matched, without points
that B sees at less than 6 degrees from edge-on, where one pixel spans many depths.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trimesh
from rich.console import Console
from rich.table import Table

from data.cameras import Camera, fitting_distance, sample_hemisphere
from data.correspondence import Correspondence, correspond
from data.meshes import bounding_radius, load_mesh
from data.rendering import Renderer, View
from data.surfaces import surfaces_of
from models.miniature.world import export_glb, parse_id

OBJECTS = ("teapot-pink-black-dotted-48", "chair-pink-cyan-plain-32", "duck-yellow-cyan-dotted-26")
GRAZING = 0.1
"""Cosine between a surface's normal and the line of sight."""
FAR = 0.03


@dataclass(frozen=True)
class Truth:
    """By ray casting, for the G*G cell centres of A."""

    landed: np.ndarray
    """(G*G, 2) pixels in B; NaN where A sees nothing."""
    seen: np.ndarray
    """(G*G,) bool: B sees the point."""
    grazing: np.ndarray
    """(G*G,) bool: but almost edge-on."""


@dataclass(frozen=True)
class Comparison:
    errors: np.ndarray
    """(M,) pixels of B, of the matches whose point B sees."""
    matches: int
    false: int
    far: int
    missed: int
    findable: int
    """Points that B sees and not edge-on: what `missed` is a part of."""


def ray_cast(mesh: trimesh.Trimesh, camera_a: Camera, camera_b: Camera, grid: int) -> Truth:
    centres = (np.arange(grid) + 0.5) / grid
    pixels = np.stack(np.meshgrid(centres * camera_a.width, centres * camera_a.height), axis=-1).reshape(-1, 2)
    eye = camera_a.matrix[:3, 3]
    directions = camera_a.unproject(pixels, np.ones(len(pixels))) - eye
    points, rays, faces = mesh.ray.intersects_location(np.tile(eye, (len(pixels), 1)), directions, multiple_hits=False)
    surface = np.full((len(pixels), 3), np.nan)
    surface[rays] = points
    landed, depth = camera_b.project(surface)

    eye = camera_b.matrix[:3, 3]
    toward = points - eye
    distance = np.linalg.norm(toward, axis=1)
    hits, hit_rays, _ = mesh.ray.intersects_location(np.tile(eye, (len(rays), 1)), toward, multiple_hits=False)
    reached = np.full(len(rays), np.inf)
    reached[hit_rays] = np.linalg.norm(hits - eye, axis=1)
    seen, grazing = np.zeros(len(pixels), bool), np.zeros(len(pixels), bool)
    seen[rays] = reached >= distance - 2e-3
    grazing[rays] = np.abs((mesh.face_normals[faces] * toward).sum(axis=1)) < GRAZING * distance
    with np.errstate(invalid="ignore"):
        seen &= (depth > 0) & (landed >= 0).all(axis=1) & (landed < (camera_b.width, camera_b.height)).all(axis=1)
    return Truth(landed, seen, grazing)


def compare(match: Correspondence, truth: Truth, camera_b: Camera) -> Comparison:
    matched = match.visible.reshape(-1)
    pixels = match.uv.reshape(-1, 2) * (camera_b.width, camera_b.height)
    right = matched & truth.seen
    errors = np.linalg.norm(pixels[right] - truth.landed[right], axis=1)
    findable = truth.seen & ~truth.grazing
    return Comparison(
        errors=errors,
        matches=int(matched.sum()),
        false=int((matched & ~truth.seen).sum()),
        far=int((errors > FAR * camera_b.width).sum()),
        missed=int((findable & ~matched).sum()),
        findable=int(findable.sum()),
    )


def measure(mesh: trimesh.Trimesh, views: list[View], grid: int, tolerance: float) -> tuple[list[Comparison], float]:
    """All ordered pairs of views, and the seconds that one correspondence took on average."""
    found, seconds = [], 0.0
    for a in views:
        for b in views:
            if a is b:
                continue
            start = time.perf_counter()
            match = correspond(a.depth, a.camera, b.depth, b.camera, grid, tolerance)
            seconds += time.perf_counter() - start
            found.append(compare(match, ray_cast(mesh, a.camera, b.camera, grid), b.camera))
    return found, seconds / len(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="further GLB files")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 512])
    parser.add_argument("--grid", type=int, default=128)
    parser.add_argument("--views", type=int, default=6)
    parser.add_argument("--tolerance", type=float, default=0.01)
    options = parser.parse_args()
    meshes = {name: export_glb(parse_id(name)) for name in OBJECTS}
    meshes |= {path.stem: path.read_bytes() for path in options.files}
    table = Table("mesh", "size", "pairs", "mean px", "95 % px", "max px", "false", "far", "missed", "ms a pair")
    for name, data in meshes.items():
        scene = load_mesh(data, "glb")
        for size in options.sizes:
            reach = fitting_distance(40.0, bounding_radius(scene))
            rng = np.random.default_rng(0)
            cameras = sample_hemisphere(options.views, rng, distance=reach, width=size, height=size)
            with Renderer(size, size) as renderer:
                views = list(renderer.render_views(surfaces_of(scene), cameras))
            found, seconds = measure(scene.to_mesh(), views, options.grid, options.tolerance)
            errors = np.concatenate([one.errors for one in found])
            matches = sum(one.matches for one in found)
            table.add_row(
                name,
                str(size),
                str(len(found)),
                f"{errors.mean():.3f}",
                f"{np.quantile(errors, 0.95):.3f}",
                f"{errors.max():.2f}",
                f"{sum(one.false for one in found) / matches:.2%}",
                f"{sum(one.far for one in found) / matches:.2%}",
                f"{sum(one.missed for one in found) / sum(one.findable for one in found):.2%}",
                f"{seconds * 1e3:.1f}",
            )
    Console(width=112).print(table)


if __name__ == "__main__":
    main()
