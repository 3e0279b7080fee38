"""Correspondences: exact where they are known, right against ray casting, and never out of bounds."""

import os
from pathlib import Path

import numpy as np
import pytest
import trimesh
from scipy.ndimage import minimum_filter

from benchmarks.correspondence import compare, ray_cast
from data.cameras import Camera, fitting_distance, look_at
from data.correspondence import Correspondence, correspond
from data.meshes import bounding_radius, load_mesh
from data.placement import pairwise_overlap
from data.rendering import Renderer, View
from data.surfaces import surfaces_of
from models.miniature.world import export_glb, parse_id

MESHES = Path(os.environ.get("SYNCD_TEST_MESHES", Path(__file__).resolve().parents[3] / "shared" / "meshes"))


def views_of(data: bytes, size: int, angles: list[tuple[float, float]]) -> tuple[trimesh.Trimesh, list[View]]:
    scene = load_mesh(data, "glb")
    reach = fitting_distance(40.0, bounding_radius(scene))
    with Renderer(size, size) as renderer:
        return scene.to_mesh(), list(
            renderer.render_views(surfaces_of(scene), [look_at(*angle, reach, 40.0, size, size) for angle in angles])
        )


def between(a: View, b: View, grid: int) -> Correspondence:
    return correspond(a.depth, a.camera, b.depth, b.camera, grid)


def cell_centres(grid: int) -> np.ndarray:
    centres = (np.arange(grid) + 0.5) / grid
    return np.stack(np.meshgrid(centres, centres), axis=-1)


def bumpy(size: int) -> tuple[np.ndarray, Camera]:
    """A depth map with steps and holes, and its camera."""
    rng = np.random.default_rng(0)
    depth = 2.0 + 0.3 * np.kron(rng.random((size // 8, size // 8)), np.ones((8, 8))) + 0.01 * rng.random((size, size))
    depth[rng.random((size, size)) < 0.1] = 0
    return depth.astype(np.float32), look_at(20.0, 30.0, 2.2, 40.0, size, size)


@pytest.mark.parametrize("grid", [16, 32, 48])
def test_a_view_corresponds_to_itself_exactly(grid: int) -> None:
    depth, camera = bumpy(32)
    match = correspond(depth, camera, depth, camera, grid)
    pixel = (cell_centres(grid) * 32).astype(int)
    assert (match.visible == (depth[pixel[..., 1], pixel[..., 0]] > 0)).all()
    assert np.allclose(match.uv[match.visible], cell_centres(grid)[match.visible], atol=1e-6)
    assert (match.uv[~match.visible] == 0).all() and match.uv.dtype == np.float32


@pytest.mark.parametrize(("dx", "dy"), [(5, 3), (-7, 2), (0, -4)])
def test_a_shift_by_whole_pixels_is_exact(dx: int, dy: int) -> None:
    depth, camera = bumpy(32)
    shifted = np.zeros_like(depth)
    for row in range(32):
        for column in range(32):
            if 0 <= row + dy < 32 and 0 <= column + dx < 32:
                shifted[row + dy, column + dx] = depth[row, column]
    match = correspond(depth, camera, shifted, camera.placed(1.0, dx, dy), 32)
    for row in range(32):
        for column in range(32):
            inside = 0 <= row + dy < 32 and 0 <= column + dx < 32
            assert match.visible[row, column] == (inside and depth[row, column] > 0)
            if match.visible[row, column]:
                expected = [(column + dx + 0.5) / 32, (row + dy + 0.5) / 32]
                assert np.allclose(match.uv[row, column], expected, atol=1e-6)


def test_a_plane_between_pixels_is_exact() -> None:
    """Inverse depth is linear in the image on a plane, so a finer grid than the image loses nothing."""
    quad = trimesh.Trimesh([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], [[0, 1, 2], [0, 2, 3]], process=False)
    mesh, (a, b) = views_of(quad.export(file_type="glb"), 32, [(25.0, 20.0), (-20.0, 5.0)])
    match = between(a, b, 80)
    truth = ray_cast(mesh, a.camera, b.camera, 80)
    column, row = np.floor(cell_centres(80) * 32).astype(int).reshape(-1, 2).T
    inner = minimum_filter(a.mask, 3)[row, column]
    right = match.visible.reshape(-1) & truth.seen & inner
    assert right.sum() > 1000
    assert np.abs(match.uv.reshape(-1, 2)[right] * 32 - truth.landed[right]).max() < 0.02


def test_an_occluder_hides_what_lies_behind_it() -> None:
    camera = look_at(0.0, 0.0, 2.0, 40.0, 32, 32)
    far = np.full((32, 32), 2.0, np.float32)
    covered = far.copy()
    covered[:, :16] = 1.5
    match = correspond(far, camera, covered, camera, 32)
    assert not match.visible[:, :16].any() and match.visible[:, 16:].all()


@pytest.mark.parametrize(("gap", "visible"), [(0.009, True), (0.011, False)])
def test_the_tolerance_is_in_units_of_the_box(gap: float, visible: bool) -> None:
    camera = look_at(0.0, 0.0, 2.0, 40.0, 16, 16)
    flat = np.full((16, 16), 2.0, np.float32)
    assert correspond(flat, camera, flat + np.float32(gap), camera, 16).visible.all() == visible


def test_out_of_frame_and_behind_the_camera_is_invisible() -> None:
    depth, camera = bumpy(32)
    gone = correspond(depth, camera, depth, camera.placed(1.0, 40.0, 0.0), 32)
    half = correspond(depth, camera, depth, camera.placed(1.0, 16.0, 0.0), 32)
    facing_away = look_at(20.0, 30.0, 2.2, 40.0, 32, 32).matrix
    facing_away[:3, :3] *= -1
    back = Camera.from_dict(camera.to_dict() | {"pose": facing_away.tolist()})
    assert not gone.visible.any() and gone.share == 0
    assert not half.visible[:, 16:].any()
    assert not correspond(depth, camera, depth, back, 32).visible.any()
    assert ((half.uv >= 0) & (half.uv < 1)).all()


def test_an_empty_view_corresponds_to_nothing() -> None:
    depth, camera = bumpy(32)
    for a, b in ((depth, depth * 0), (depth * 0, depth)):
        assert not correspond(a, camera, b, camera, 16).visible.any()


def test_depth_of_another_size_than_the_camera_is_refused() -> None:
    depth, camera = bumpy(32)
    with pytest.raises(ValueError, match=r"depth B has shape \(16, 32\)"):
        correspond(depth, camera, depth[:16], camera, 16)


def check_against_rays(data: bytes, size: int, max_false: float, max_missed: float, max_far: float) -> None:
    mesh, (a, b) = views_of(data, size, [(20.0, 25.0), (55.0, 40.0)])
    found = compare(between(a, b, 64), ray_cast(mesh, a.camera, b.camera, 64), b.camera)
    assert found.matches > 300
    assert np.quantile(found.errors, 0.95) < 0.5 and found.far <= max_far * found.matches
    assert found.false <= max_false * found.matches and found.missed <= max_missed * found.findable


@pytest.mark.parametrize(("size", "max_missed"), [(64, 0.30), (256, 0.15)])
def test_a_miniature_object_agrees_with_ray_casting(size: int, max_missed: float) -> None:
    data = export_glb(parse_id("teapot-pink-black-dotted-48"))
    check_against_rays(data, size, max_false=0.03, max_missed=max_missed, max_far=0.01)


@pytest.mark.skipif(not (MESHES / "Duck.glb").exists(), reason=f"no {MESHES}; set SYNCD_TEST_MESHES")
def test_the_duck_agrees_with_ray_casting() -> None:
    check_against_rays((MESHES / "Duck.glb").read_bytes(), 256, max_false=0.03, max_missed=0.15, max_far=0.01)


def test_a_placed_view_corresponds_as_the_unplaced_one_does() -> None:
    """Placement lives in the intrinsics: matches into a placed view are the placed matches."""
    data = export_glb(parse_id("duck-yellow-cyan-dotted-26"))
    scene = load_mesh(data, "glb")
    reach = fitting_distance(40.0, bounding_radius(scene))
    first, second = (look_at(angle, 30.0, reach, 40.0, 128, 128) for angle in (10.0, 35.0))
    with Renderer(128, 128) as renderer:
        a, b, placed = renderer.render_views(surfaces_of(scene), [first, second, second.placed(0.8, 9.0, 6.0)])
    plain, moved = between(a, b, 64), between(a, placed, 64)
    both = plain.visible & moved.visible
    assert both.sum() > 0.9 * plain.visible.sum() > 300
    expected = 0.5 + (plain.uv[both] - 0.5) * 0.8 + np.array([9.0, 6.0]) / 128
    assert np.quantile(np.abs(moved.uv[both] - expected) * 128, 0.95) < 0.25


def test_overlap_is_the_smaller_of_both_directions() -> None:
    _, views = views_of(export_glb(parse_id("duck-yellow-cyan-dotted-26")), 64, [(0, 20), (40, 30), (180, 30)])
    overlap = pairwise_overlap(views, grid=32)
    shares = [[1.0 if a is b else between(a, b, 32).share for b in views] for a in views]
    for i in range(3):
        for j in range(3):
            assert overlap[i, j] == min(shares[i][j], shares[j][i])
    assert overlap[0, 1] > overlap[0, 2]
