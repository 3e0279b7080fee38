"""How right correspondences are, against ray casting: `python -m benchmarks.correspondence [FILE.glb ...]`.

Reference: the surface point under each cell centre of A by ray casting, its exact projection into B, and whether the
ray from B's camera reaches it unobstructed. Columns: error in pixels of B of what was matched and is truly visible;
false: share of matches whose point B cannot see; missed: share of truly visible points that were not matched.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import trimesh
from rich.console import Console
from rich.table import Table

from data.cameras import Camera, fitting_distance, sample_hemisphere
from data.correspondence import Correspondence, correspond
from data.meshes import bounding_radius, load_mesh
from data.rendering import Renderer
from models.miniature.world import export_glb, parse_id

OBJECTS = ("teapot-pink-black-dotted-48", "chair-pink-cyan-plain-32", "duck-yellow-cyan-dotted-26")


def ray_cast(mesh: trimesh.Trimesh, camera_a: Camera, camera_b: Camera, grid: int) -> tuple[np.ndarray, np.ndarray]:
    """True pixels in B (G*G, 2) of the cell centres of A, NaN where A sees nothing; whether B sees the point (G*G,)."""
    centres = (np.arange(grid) + 0.5) / grid
    pixels = np.stack(np.meshgrid(centres * camera_a.width, centres * camera_a.height), axis=-1).reshape(-1, 2)
    eye = camera_a.matrix[:3, 3]
    directions = camera_a.unproject(pixels, np.ones(len(pixels))) - eye
    points, rays, _ = mesh.ray.intersects_location(np.tile(eye, (len(pixels), 1)), directions, multiple_hits=False)
    surface = np.full((len(pixels), 3), np.nan)
    surface[rays] = points
    landed, depth = camera_b.project(surface)
    seen = np.zeros(len(pixels), bool)
    eye = camera_b.matrix[:3, 3]
    toward = surface[rays] - eye
    distance = np.linalg.norm(toward, axis=1)
    hits, hit_rays, _ = mesh.ray.intersects_location(np.tile(eye, (len(rays), 1)), toward, multiple_hits=False)
    reached = np.full(len(rays), np.inf)
    reached[hit_rays] = np.linalg.norm(hits - eye, axis=1)
    seen[rays] = reached >= distance - 2e-3
    with np.errstate(invalid="ignore"):
        seen &= (depth > 0) & (landed >= 0).all(axis=1) & (landed < (camera_b.width, camera_b.height)).all(axis=1)
    return landed, seen


def compare(
    match: Correspondence, landed: np.ndarray, seen: np.ndarray, camera_b: Camera
) -> tuple[np.ndarray, int, int, int]:
    """(errors in px, matches, false matches, missed)."""
    matched = match.visible.reshape(-1)
    pixels = match.uv.reshape(-1, 2) * (camera_b.width, camera_b.height)
    right = matched & seen
    errors = np.linalg.norm(pixels[right] - landed[right], axis=1)
    return errors, int(matched.sum()), int((matched & ~seen).sum()), int((seen & ~matched).sum())


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
    table = Table("mesh", "px", "pairs", "mean px", "95 % px", "max px", "false", "missed", "ms a pair")
    for name, data in meshes.items():
        scene = load_mesh(data, "glb")
        mesh = scene.to_mesh()
        for size in options.sizes:
            rng = np.random.default_rng(0)
            reach = fitting_distance(40.0, bounding_radius(scene))
            cameras = sample_hemisphere(options.views, rng, distance=reach, width=size, height=size)
            with Renderer(size, size) as renderer:
                views = list(renderer.render_views(scene, cameras))
            errors, matches, false, missed, visible, seconds, pairs = [], 0, 0, 0, 0, 0.0, 0
            for a in views:
                for b in views:
                    if a is b:
                        continue
                    landed, seen = ray_cast(mesh, a.camera, b.camera, options.grid)
                    start = time.perf_counter()
                    match = correspond(a.depth, a.camera, b.depth, b.camera, options.grid, options.tolerance)
                    seconds += time.perf_counter() - start
                    found = compare(match, landed, seen, b.camera)
                    errors.append(found[0])
                    matches, false, missed = matches + found[1], false + found[2], missed + found[3]
                    visible, pairs = visible + int(seen.sum()), pairs + 1
            all_errors = np.concatenate(errors)
            table.add_row(
                name,
                str(size),
                str(pairs),
                f"{all_errors.mean():.3f}",
                f"{np.quantile(all_errors, 0.95):.3f}",
                f"{all_errors.max():.2f}",
                f"{false / matches:.2%}",
                f"{missed / visible:.2%}",
                f"{seconds / pairs * 1e3:.1f}",
            )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
