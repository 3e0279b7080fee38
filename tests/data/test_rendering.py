"""Rendering: geometry against ray casting, colours against the asset's, and the same bytes every time.

Needs OpenGL through EGL: apt-get install -y libegl1 libgl1-mesa-dri
"""

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image
from trimesh.visual.material import PBRMaterial

from data.cameras import Camera, fitting_distance, look_at
from data.meshes import MeshError, bounding_radius, load_mesh
from data.rendering import RenderBackendError, Renderer, View, probe_backend
from data.surfaces import surfaces_of

CHECKOUT = Path(__file__).resolve().parents[2]
MESHES = Path(os.environ.get("SYNCD_TEST_MESHES", CHECKOUT.parent / "shared" / "meshes"))
SIZE = 48

needs_meshes = pytest.mark.skipif(not MESHES.is_dir(), reason=f"no {MESHES}; set SYNCD_TEST_MESHES")


@pytest.fixture(scope="module")
def renderer() -> Iterator[Renderer]:
    with Renderer(SIZE, SIZE) as opened:
        yield opened


def scene_of(geometry: trimesh.Trimesh | trimesh.Scene) -> trimesh.Scene:
    return load_mesh(geometry.export(file_type="glb"), "glb")


def view_from(scene: trimesh.Scene, azimuth: float = 30.0, elevation: float = 25.0, size: int = SIZE) -> Camera:
    return look_at(azimuth, elevation, fitting_distance(40.0, bounding_radius(scene)), 40.0, size, size)


def box_with(material: PBRMaterial, colours: np.ndarray | None = None) -> trimesh.Trimesh:
    """A box whose faces each see the whole texture."""
    box = trimesh.creation.box()
    box.unmerge_vertices()
    uv = np.tile([[0.5, 0.5]], (len(box.vertices), 1))
    box.visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    if colours is not None:
        box.visual.vertex_attributes["color"] = colours
    return box


def to_srgb(linear: float) -> float:
    return 255 * (12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055)


def ray_depth(scene: trimesh.Scene, camera: Camera) -> np.ndarray:
    """z-depth at pixel centres by ray casting, 0 where nothing is hit."""
    mesh = scene.to_mesh()
    pixels = np.stack(np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5), -1).reshape(-1, 2)
    eye = camera.matrix[:3, 3]
    directions = camera.unproject(pixels, np.ones(len(pixels))) - eye
    points, rays, _ = mesh.ray.intersects_location(np.tile(eye, (len(pixels), 1)), directions, multiple_hits=False)
    depth = np.zeros(len(pixels))
    depth[rays] = camera.project(points)[1]
    return depth.reshape(camera.height, camera.width)


@pytest.mark.parametrize("placing", [(1.0, 0.0, 0.0), (0.8, 4.0, -6.5)])
@pytest.mark.parametrize("shape", ["torus", "two boxes"])
def test_depth_and_mask_are_those_of_ray_casting(
    renderer: Renderer, shape: str, placing: tuple[float, float, float]
) -> None:
    if shape == "torus":
        geometry: trimesh.Trimesh | trimesh.Scene = trimesh.creation.torus(1.0, 0.4)
    else:
        geometry = trimesh.Scene()
        turned = trimesh.transformations.rotation_matrix(0.5, [1, 1, 0])
        turned[:3, 3] = [1.2, 0.1, 0.4]
        geometry.add_geometry(trimesh.creation.box())
        geometry.add_geometry(trimesh.creation.box((0.5, 0.8, 0.3)), transform=turned)
    scene = scene_of(geometry)
    camera = view_from(scene).placed(*placing)
    view, expected = renderer.render(surfaces_of(scene), camera), ray_depth(scene, camera)
    both = view.mask & (expected > 0)
    # Rasteriser and ray caster may differ on pixels whose centre an edge passes through.
    assert (view.mask != (expected > 0)).sum() <= 0.01 * both.sum()
    errors = np.abs(view.depth - expected)[both]
    assert np.quantile(errors, 0.99) < 1e-4 and view.depth.dtype == np.float32


def test_an_all_black_object_is_all_object(renderer: Renderer) -> None:
    black = scene_of(box_with(PBRMaterial(baseColorFactor=[0, 0, 0, 255])))
    view = renderer.render(surfaces_of(black), view_from(black))
    assert view.mask.mean() > 0.2 and (view.rgb == 0).all()
    assert ((view.depth > 0) == view.mask).all() and (view.alpha[view.mask] > 0).all()


def test_the_background_is_transparent_and_inside_is_opaque(renderer: Renderer) -> None:
    scene = scene_of(trimesh.creation.icosphere())
    view = renderer.render(surfaces_of(scene), view_from(scene))
    assert view.alpha[0, 0] == 0 and (view.rgb[view.alpha == 0] == 0).all()
    assert view.alpha[SIZE // 2, SIZE // 2] == 255
    assert ((view.alpha > 0) & (view.alpha < 255)).any()


def test_edges_carry_the_object_s_colour_and_none_of_the_background(renderer: Renderer) -> None:
    scene = scene_of(box_with(PBRMaterial(baseColorFactor=[255, 255, 255, 255])))
    view = renderer.render(surfaces_of(scene), view_from(scene))
    edge = (view.alpha > 0) & (view.alpha < 255)
    assert edge.any() and view.rgb[edge].min() > 100


def test_red_is_red_and_not_blown_out(renderer: Renderer) -> None:
    """Linear 0.8 red: the brightest face comes near it, no face exceeds it, no face loses it."""
    red = scene_of(box_with(PBRMaterial(baseColorFactor=[0.8, 0.0, 0.0, 1.0])))
    seen = renderer.render(surfaces_of(red), view_from(red)).rgb.reshape(-1, 3)
    seen = seen[seen[:, 0] > 0]
    assert (seen[:, 1:] == 0).all()
    assert 0.9 * to_srgb(0.8) <= seen[:, 0].max() <= to_srgb(0.8) + 1
    assert seen[:, 0].min() >= 0.5 * to_srgb(0.8)


@pytest.mark.parametrize("azimuth", [0, 90, 180, 270])
def test_no_light_exceeds_white(renderer: Renderer, azimuth: int) -> None:
    grey = scene_of(trimesh.creation.icosphere())
    grey = scene_of(trimesh.Trimesh(grey.to_mesh().vertices, grey.to_mesh().faces, vertex_colors=[128, 128, 128, 255]))
    view = renderer.render(surfaces_of(grey), view_from(grey, azimuth))
    assert view.rgb[view.mask].max() <= to_srgb(128 / 255) + 1


def painted(kind: str) -> trimesh.Scene:
    """A box that is (0.5, 0.25, 0) in linear colour, said in different ways."""
    colour = np.array([128, 64, 0, 255], np.uint8)
    srgb = tuple(round(to_srgb(value / 255)) for value in (128, 64, 0))
    box = trimesh.creation.box()
    if kind == "vertex":
        box.visual.vertex_colors = np.tile(colour, (8, 1))
    elif kind == "face":
        box.visual.face_colors = np.tile(colour, (12, 1))
        return trimesh.Scene({"0000": box})
    elif kind == "material":
        box = box_with(PBRMaterial(baseColorFactor=colour))
    elif kind == "texture":
        box = box_with(PBRMaterial(baseColorTexture=Image.new("RGB", (4, 4), srgb)))
    elif kind == "texture and factor":
        texture = Image.new("RGB", (4, 4), tuple(round(to_srgb(value / 255)) for value in (255, 128, 255)))
        box = box_with(PBRMaterial(baseColorTexture=texture, baseColorFactor=[128, 128, 0, 255]))
    elif kind == "material and vertex":
        box = box_with(PBRMaterial(baseColorFactor=[128, 255, 255, 255]), np.tile([255, 64, 0, 255], (36, 1)))
        box.visual.vertex_attributes["color"] = box.visual.vertex_attributes["color"].astype(np.uint8)
        return trimesh.Scene({"0000": box})
    return scene_of(box)


@pytest.mark.parametrize("kind", ["vertex", "face", "material", "texture", "texture and factor", "material and vertex"])
def test_a_colour_looks_the_same_however_the_asset_says_it(renderer: Renderer, kind: str) -> None:
    scene = painted(kind)
    view = renderer.render(surfaces_of(scene), view_from(scene))
    brightest = view.rgb.reshape(-1, 3).max(axis=0)
    # The top face receives 0.42 + 0.58 * 0.8 of the light, plus a little of the fill.
    light = (brightest[0] / to_srgb(0.5)) ** 2.4
    assert 0.85 < light <= 1.01
    expected = [to_srgb(0.502 * light), to_srgb(0.251 * light), 0]
    assert np.allclose(brightest, expected, atol=3)


def test_undefined_colour_is_neutral_grey(renderer: Renderer) -> None:
    scene = trimesh.Scene({"0000": trimesh.Trimesh(**trimesh.creation.box().to_dict())})
    scene.geometry["0000"].visual = trimesh.visual.ColorVisuals()
    view = renderer.render(surfaces_of(scene), view_from(scene))
    assert view.mask.any() and np.ptp(view.rgb[view.mask].astype(int), axis=1).max() == 0


def test_metal_is_not_black(renderer: Renderer) -> None:
    scene = scene_of(box_with(PBRMaterial(baseColorFactor=[200, 200, 200, 255], metallicFactor=1.0)))
    assert renderer.render(surfaces_of(scene), view_from(scene)).rgb.max() > 150


def test_both_sides_of_a_sheet_are_drawn_and_lit_by_where_they_face(renderer: Renderer) -> None:
    sheet = trimesh.Trimesh([[-1, 0, -1], [1, 0, -1], [1, 0, 1], [-1, 0, 1]], [[0, 2, 1], [0, 3, 2]], process=False)
    scene = scene_of(sheet)
    above, below = (renderer.render(surfaces_of(scene), view_from(scene, elevation=side)) for side in (60.0, -60.0))
    assert above.mask.sum() == pytest.approx(below.mask.sum(), rel=0.05)
    assert above.rgb[above.mask].mean() > below.rgb[below.mask].mean() + 20


@pytest.mark.parametrize(("mode", "share"), [("MASK", 0.5), ("BLEND", 0.5), ("OPAQUE", 1.0)])
def test_cut_outs_are_no_object(renderer: Renderer, mode: str, share: float) -> None:
    pixels = np.full((64, 64, 4), 255, np.uint8)
    pixels[:, :32, 3] = 0
    material = PBRMaterial(baseColorTexture=Image.fromarray(pixels), alphaMode=mode)
    square = trimesh.Trimesh(
        [[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]],
        [[0, 1, 2], [0, 2, 3]],
        visual=trimesh.visual.TextureVisuals(uv=[[0, 0], [1, 0], [1, 1], [0, 1]], material=material),
        process=False,
    )
    scene = scene_of(square)
    view = renderer.render(surfaces_of(scene), view_from(scene, 0.0, 0.0))
    solid = scene_of(trimesh.Trimesh(square.vertices, square.faces, process=False))
    whole = renderer.render(surfaces_of(solid), view_from(solid, 0.0, 0.0))
    assert view.mask.sum() / whole.mask.sum() == pytest.approx(share, abs=0.05)
    assert ((view.depth > 0) == view.mask).all()


def test_textures_are_the_right_way_up(renderer: Renderer) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4, :, 0], pixels[4:, :, 2] = 255, 255
    square = trimesh.Trimesh(
        [[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]],
        [[0, 1, 2], [0, 2, 3]],
        # glTF and trimesh: the image's top row is at v = 1 of trimesh's uv.
        visual=trimesh.visual.TextureVisuals(
            uv=[[0, 0], [1, 0], [1, 1], [0, 1]], material=PBRMaterial(baseColorTexture=Image.fromarray(pixels))
        ),
        process=False,
    )
    view = renderer.render(surfaces_of(scene_of(square)), view_from(scene_of(square), 0.0, 0.0))
    top, bottom = view.rgb[SIZE // 3, SIZE // 2].astype(int), view.rgb[2 * SIZE // 3, SIZE // 2].astype(int)
    assert top[0] > 100 > top[2] and bottom[2] > 100 > bottom[0]


def test_an_image_that_breaks_off_is_a_mesh_error(renderer: Renderer) -> None:
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = box_with(PBRMaterial(baseColorTexture=noise)).export(file_type="glb")
    middle = data.index(b"\x89PNG") + 3000
    broken = data[:middle] + b"\0" * 2000 + data[middle + 2000 :]
    with pytest.raises(MeshError, match="bad_texture"):
        renderer.render(surfaces_of(load_mesh(broken, "glb")), look_at(0, 0, 2.5, 40, SIZE, SIZE))


def digest(view: View) -> str:
    return hashlib.sha256(view.rgb.tobytes() + view.depth.tobytes() + view.alpha.tobytes()).hexdigest()


REPEAT = """
import trimesh
from data.cameras import look_at
from data.meshes import load_mesh
from data.rendering import Renderer
from data.surfaces import surfaces_of
from tests.data.test_rendering import digest
scene = load_mesh(trimesh.creation.torus(1.0, 0.4).export(file_type="glb"), "glb")
with Renderer(48, 48) as renderer:
    print(digest(renderer.render(surfaces_of(scene), look_at(20.0, 30.0, 2.2, 40.0, 48, 48))))
"""


def test_equal_bytes_on_repeat_and_in_another_process(renderer: Renderer) -> None:
    scene = scene_of(trimesh.creation.torus(1.0, 0.4))
    camera = look_at(20.0, 30.0, 2.2, 40.0, SIZE, SIZE)
    here = {digest(renderer.render(surfaces_of(scene), camera)) for _ in range(2)}
    there = subprocess.run([sys.executable, "-c", REPEAT], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert here == {there.stdout.strip()}


def test_what_was_drawn_before_leaves_no_trace(renderer: Renderer) -> None:
    small, large = scene_of(trimesh.creation.icosphere()), scene_of(trimesh.creation.box())
    alone = digest(renderer.render(surfaces_of(small), view_from(small)))
    renderer.render(surfaces_of(large), view_from(large))
    assert digest(renderer.render(surfaces_of(small), view_from(small))) == alone


def test_one_upload_for_many_views_equals_single_renders(renderer: Renderer) -> None:
    scene = scene_of(trimesh.creation.torus(1.0, 0.4))
    cameras = [view_from(scene, azimuth) for azimuth in (0.0, 100.0, 200.0)]
    together = [digest(view) for view in renderer.render_views(surfaces_of(scene), cameras)]
    assert together == [digest(renderer.render(surfaces_of(scene), camera)) for camera in cameras]
    assert len(set(together)) > 1


def test_renderers_of_two_sizes_live_side_by_side(renderer: Renderer) -> None:
    scene = scene_of(trimesh.creation.icosphere())
    before = digest(renderer.render(surfaces_of(scene), view_from(scene)))
    with Renderer(32, 20) as other:
        camera = view_from(scene).resized(32, 20)
        assert other.render(surfaces_of(scene), camera).rgb.shape == (20, 32, 3)
        assert digest(renderer.render(surfaces_of(scene), view_from(scene))) == before
    assert digest(renderer.render(surfaces_of(scene), view_from(scene))) == before


def test_a_thread_has_its_own_renderer(renderer: Renderer) -> None:
    scene = scene_of(trimesh.creation.icosphere())
    found: list[object] = []

    def work() -> None:
        try:
            renderer.render(surfaces_of(scene), view_from(scene))
        except RuntimeError as error:
            found.append(str(error))
        with Renderer(SIZE, SIZE) as own:
            found.append(digest(own.render(surfaces_of(scene), view_from(scene))))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert "one per thread" in str(found[0])
    assert found[1] == digest(renderer.render(surfaces_of(scene), view_from(scene)))


def test_closed_and_mismatched_use_is_refused(renderer: Renderer) -> None:
    scene = scene_of(trimesh.creation.box())
    with pytest.raises(ValueError, match="camera is 32 x 32, renderer 48 x 48"):
        renderer.render(surfaces_of(scene), view_from(scene, size=32))
    with renderer.load(surfaces_of(scene)) as loaded:
        pass
    with pytest.raises(RuntimeError, match="load it again"):
        loaded.render(view_from(scene))
    closed = Renderer(SIZE, SIZE)
    closed.close()
    closed.close()
    with pytest.raises(RuntimeError, match="closed"):
        closed.render(surfaces_of(scene), view_from(scene))
    with pytest.raises(ValueError, match="0 x 5"):
        Renderer(0, 5)


def test_the_backend_names_itself() -> None:
    assert set(probe_backend()) == {"vendor", "renderer", "version"} and all(probe_backend().values())


@pytest.mark.parametrize(
    ("name", "value", "hint"), [("EGL_DEVICE_ID", "99", "apt-get"), ("PYOPENGL_PLATFORM", "glx", "unset")]
)
def test_a_missing_backend_says_what_to_do(monkeypatch: pytest.MonkeyPatch, name: str, value: str, hint: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(RenderBackendError, match=f"fix: .*{hint}"):
        Renderer(8, 8)


@needs_meshes
@pytest.mark.parametrize("name", ["Duck", "CesiumMilkTruck", "BoxTextured"])
def test_real_assets_agree_with_ray_casting(renderer: Renderer, name: str) -> None:
    scene = load_mesh((MESHES / f"{name}.glb").read_bytes(), "glb")
    camera = view_from(scene, 40.0, 30.0)
    view, expected = renderer.render(surfaces_of(scene), camera), ray_depth(scene, camera)
    both = view.mask & (expected > 0)
    assert both.sum() > 0.15 * SIZE**2 and (view.mask != (expected > 0)).sum() <= 0.02 * both.sum()
    assert np.quantile(np.abs(view.depth - expected)[both], 0.98) < 1e-4


@needs_meshes
def test_the_duck_is_yellow(renderer: Renderer) -> None:
    scene = load_mesh((MESHES / "Duck.glb").read_bytes(), "glb")
    view = renderer.render(surfaces_of(scene), view_from(scene))
    red, green, blue = view.rgb[view.mask].mean(axis=0)
    assert red > 180 and green > 140 and blue < 60
