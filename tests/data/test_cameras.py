"""Cameras: sampling is uniform on the sphere, projection inverts, placement is an affine map of the image."""

import json
import math

import numpy as np
import pytest

from data.cameras import Camera, fitting_distance, look_at, sample_hemisphere


def naive_projection(camera: Camera, point: np.ndarray) -> tuple[float, float, float]:
    """Pixel and z-depth by the definition: coordinates along the camera's axes, seen through a pinhole."""
    pose = np.array(camera.pose)
    offset = point - pose[:3, 3]
    right, up, back = (float(offset @ pose[:3, axis]) for axis in range(3))
    return camera.cx + camera.fx * right / -back, camera.cy - camera.fy * up / -back, -back


@pytest.mark.parametrize("placing", [None, (0.8, 5.0, -3.0)])
def test_projection_follows_the_pinhole_and_unprojection_inverts_it(placing: tuple[float, float, float] | None) -> None:
    camera = look_at(33.0, 25.0, 2.5, 40.0, 96, 64)
    camera = camera.placed(*placing) if placing else camera
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (20, 3))
    pixels, depth = camera.project(points)
    assert np.allclose(np.c_[pixels, depth], [naive_projection(camera, point) for point in points])
    assert np.allclose(camera.unproject(pixels, depth), points)


def test_up_is_up_and_the_axis_is_central() -> None:
    camera = look_at(70.0, 40.0, 3.0, 40.0, 64, 64)
    pixels, depth = camera.project(np.array([[0.0, 0.0, 0.0], [0.0, 0.3, 0.0]]))
    assert np.allclose(pixels[0], 32) and depth[0] == pytest.approx(3.0)
    assert pixels[1, 1] < 32 and pixels[1, 0] == pytest.approx(32)


def test_points_behind_the_camera_have_no_pixel() -> None:
    pixels, depth = look_at(0.0, 0.0, 2.0, 40.0, 64, 64).project(np.array([[0.0, 0.0, 5.0]]))
    assert depth[0] < 0 and np.isnan(pixels).all()


def test_azimuth_and_elevation_are_those_asked_for() -> None:
    camera = look_at(200.0, 35.0, 2.0, 40.0, 64, 64)
    assert camera.azimuth_deg == pytest.approx(200.0) and camera.elevation_deg == pytest.approx(35.0)


def test_sampling_is_uniform_on_the_cap_and_not_in_elevation() -> None:
    cameras = sample_hemisphere(4000, np.random.default_rng(1), max_elevation_deg=70.0)
    elevations = np.radians([camera.elevation_deg for camera in cameras])
    assert elevations.min() >= 0 and elevations.max() <= math.radians(70)
    # Equal areas lie between equal steps of the sine.
    counts, _ = np.histogram(np.sin(elevations), bins=8, range=(0, math.sin(math.radians(70))))
    assert np.abs(counts / 500 - 1).max() < 0.15
    quarters, _ = np.histogram([camera.azimuth_deg for camera in cameras], bins=4, range=(0, 360))
    assert np.abs(quarters / 1000 - 1).max() < 0.12


def test_equal_seeds_give_equal_cameras() -> None:
    first, second = (sample_hemisphere(3, np.random.default_rng(7)) for _ in range(2))
    assert first == second and first != sample_hemisphere(3, np.random.default_rng(8))


def test_the_fitting_distance_keeps_every_corner_of_the_unit_cube_in_the_frame() -> None:
    corners = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
    for camera in sample_hemisphere(200, np.random.default_rng(2), fov_deg=40.0, distance=fitting_distance(40.0)):
        pixels, _ = camera.project(corners)
        assert (pixels >= 0).all() and (pixels <= 64).all()


def test_placing_scales_about_the_centre_then_shifts_and_keeps_depth() -> None:
    camera = look_at(10.0, 20.0, 2.5, 40.0, 80, 64)
    points = np.random.default_rng(3).uniform(-0.5, 0.5, (10, 3))
    before, depth = camera.project(points)
    after, placed_depth = camera.placed(0.75, 6.0, -2.5).project(points)
    centre = np.array([40.0, 32.0])
    assert np.allclose(after, centre + (before - centre) * 0.75 + [6.0, -2.5])
    assert np.allclose(depth, placed_depth)


def test_placing_twice_is_placing_by_the_product() -> None:
    camera = look_at(10.0, 20.0, 2.5, 40.0, 64, 64)
    twice, once = camera.placed(0.8, 4.0, 1.0).placed(0.5, 3.0, 2.0), camera.placed(0.4, 5.0, 2.5)
    assert np.allclose([twice.fx, twice.fy, twice.cx, twice.cy], [once.fx, once.fy, once.cx, once.cy])


def test_resizing_scales_the_pixels() -> None:
    camera = look_at(10.0, 20.0, 2.5, 40.0, 64, 64).placed(0.9, 3.0, 1.0)
    point = np.array([[0.2, -0.1, 0.3]])
    assert np.allclose(camera.resized(256, 128).project(point)[0], camera.project(point)[0] * [4, 2])


def test_a_camera_survives_json_exactly() -> None:
    camera = sample_hemisphere(1, np.random.default_rng(4))[0].placed(0.913, 1.7, -2.3)
    assert Camera.from_dict(json.loads(json.dumps(camera.to_dict()))) == camera


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: look_at(0, 90, 2, 40, 64, 64), "90"),
        (lambda: look_at(0, 0, 0, 40, 64, 64), "distance 0"),
        (lambda: look_at(0, 0, 2, 40, 64, 64).placed(0.0, 0, 0), "scale is 0"),
        (lambda: sample_hemisphere(1, np.random.default_rng(0), max_elevation_deg=0), "max_elevation_deg is 0"),
        (lambda: Camera.from_dict({"pose": [[1.0]]}), "shape"),
    ],
)
def test_impossible_cameras_are_refused_by_value(call, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        call()
