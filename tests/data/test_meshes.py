"""Mesh files: whatever can be drawn comes out in the unit box, whatever cannot is a MeshError with its reason."""

import base64
import io
import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image

from data.meshes import MeshError, bounding_radius, load_mesh

Edit = Callable[[dict[str, Any]], Any]


def textured_triangle() -> trimesh.Trimesh:
    visual = trimesh.visual.TextureVisuals(uv=[[0, 0], [1, 0], [0, 1]], image=Image.new("RGB", (8, 8), (9, 200, 9)))
    return trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]], visual=visual, process=False)


def glb(geometry: trimesh.Trimesh | trimesh.Scene) -> bytes:
    return geometry.export(file_type="glb")


BOX, TEXTURED = glb(trimesh.creation.box()), glb(textured_triangle())


def edited(data: bytes, edit: Edit) -> bytes:
    """A GLB with its JSON changed in place by `edit`."""
    length = struct.unpack_from("<I", data, 12)[0]
    tree = json.loads(data[20 : 20 + length])
    edit(tree)
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    rest = data[20 + length :]
    header = b"glTF" + struct.pack("<IIII", 2, 20 + len(text) + len(rest), len(text), 0x4E4F534A)
    return header + text + rest


def reason(data: bytes, file_type: str = "glb", **options: int) -> str:
    with pytest.raises(MeshError) as caught:
        load_mesh(data, file_type, **options)
    assert caught.value.detail
    return caught.value.reason


def all_vertices(scene: trimesh.Scene) -> np.ndarray:
    return np.concatenate([mesh.vertices for mesh in scene.geometry.values()])


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1.0, 1e6, 1e20])
@pytest.mark.parametrize("shift", [0.0, 500.0])
def test_any_size_and_place_ends_in_the_unit_box(scale: float, shift: float) -> None:
    mesh = trimesh.creation.box((1.0, 2.0, 0.5))
    mesh.apply_translation([shift, -shift, shift])
    mesh.apply_scale(scale)
    scene = load_mesh(glb(mesh), "glb")
    assert np.allclose(scene.extents, [0.5, 1.0, 0.25], atol=1e-3)
    assert np.allclose(scene.bounds.mean(axis=0), 0, atol=1e-6)


@pytest.mark.parametrize("file_type", ["glb", "gltf", "obj", "ply"])
def test_every_file_type_is_read_from_bytes(file_type: str) -> None:
    mesh = trimesh.creation.icosphere(subdivisions=1)
    if file_type == "gltf":
        files = mesh.export(file_type="gltf", merge_buffers=True)
        tree = json.loads(files["model.gltf"])
        for buffer in tree["buffers"]:
            buffer["uri"] = "data:application/octet-stream;base64," + base64.b64encode(files[buffer["uri"]]).decode()
        data = json.dumps(tree).encode()
    else:
        exported = mesh.export(file_type=file_type)
        data = exported if isinstance(exported, bytes) else exported.encode()
    scene = load_mesh(data, file_type)
    assert sum(len(part.faces) for part in scene.geometry.values()) == 80
    assert bounding_radius(scene) == pytest.approx(0.5 * np.linalg.norm(mesh.vertices, axis=1).max(), rel=0.05)


def test_node_transforms_are_applied_to_every_instance() -> None:
    scene = trimesh.Scene()
    box = trimesh.creation.box()
    turned = trimesh.transformations.rotation_matrix(0.7, [0, 1, 0])
    turned[:3, 3] = [0, 5, 0]
    scene.add_geometry(box, node_name="low", geom_name="box")
    scene.graph.update(frame_to="middle", matrix=turned)
    scene.graph.update(frame_to="high", frame_from="middle", matrix=np.diag([2.0, 2.0, 2.0, 1.0]), geometry="box")
    loaded = load_mesh(glb(scene), "glb")
    world = np.concatenate([box.vertices, (np.c_[box.vertices * 2, np.ones(8)] @ turned.T)[:, :3]])
    world = world - (world.min(axis=0) + world.max(axis=0)) / 2
    world /= np.ptp(world, axis=0).max()
    got = all_vertices(loaded)
    assert len(loaded.geometry) == 2
    assert np.allclose(got[np.lexsort(got.round(4).T)], world[np.lexsort(world.round(4).T)], atol=1e-5)


def test_a_mirroring_node_keeps_the_surface() -> None:
    mirrored = edited(BOX, lambda tree: tree["nodes"][-1].update(scale=[-1, 1, 1]))
    assert np.allclose(load_mesh(mirrored, "glb").extents, 1)


def test_normals_of_the_file_are_kept() -> None:
    bent = np.tile([0.0, 0.6, 0.8], (3, 1))
    mesh = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]], vertex_normals=bent, process=False)
    (loaded,) = load_mesh(trimesh.exchange.gltf.export_glb(mesh, include_normals=True), "glb").geometry.values()
    assert np.allclose(loaded.vertex_normals, bent, atol=1e-6)


def test_vertices_that_no_face_uses_do_not_shrink_the_object() -> None:
    vertices = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [900, 0, 0]]
    mesh = trimesh.Trimesh(vertices, [[0, 1, 2]], process=False)
    (loaded,) = load_mesh(glb(mesh), "glb").geometry.values()
    assert np.allclose(np.ptp(loaded.vertices[loaded.faces[0]], axis=0)[:2], 1)


def test_points_beside_a_mesh_are_left_out() -> None:
    scene = trimesh.Scene([trimesh.creation.box()])
    scene.add_geometry(trimesh.PointCloud(np.random.default_rng(0).random((9, 3)) + 7))
    assert np.allclose(load_mesh(glb(scene), "glb").extents, 1)


def test_colours_of_ply_are_turned_linear_and_those_of_glb_are_not() -> None:
    mesh = trimesh.creation.box()
    mesh.visual.vertex_colors = np.tile([200, 100, 0, 255], (8, 1)).astype(np.uint8)
    (ply,) = load_mesh(mesh.export(file_type="ply"), "ply").geometry.values()
    (same,) = load_mesh(glb(mesh), "glb").geometry.values()
    linear = [round(255 * ((value / 255 + 0.055) / 1.055) ** 2.4) for value in (200, 100)]
    assert ply.visual.vertex_colors[0].tolist() == [*linear, 0, 255]
    assert same.visual.vertex_colors[0].tolist() == [200, 100, 0, 255]


def test_order_and_names_do_not_depend_on_the_load() -> None:
    scene = trimesh.Scene({name: trimesh.creation.box() for name in "dbca"})
    first, second = (load_mesh(glb(scene), "glb") for _ in range(2))
    assert list(first.geometry) == list(second.geometry) == ["0000", "0001", "0002", "0003"]
    assert all((first.geometry[key].vertices == second.geometry[key].vertices).all() for key in first.geometry)


@pytest.mark.parametrize("file_type", ["glb", "gltf", "ply"])
@pytest.mark.parametrize("data", [b"", b"\0" * 400, bytes(range(256)) * 3, b"[1, 2]", b"[" * 50_000])
def test_garbage_is_corrupt(data: bytes, file_type: str) -> None:
    assert reason(data, file_type) == "corrupt"


@pytest.mark.parametrize("kept", [11, 19, 60, 500, len(BOX) - 4])
def test_a_file_cut_short_is_corrupt(kept: int) -> None:
    assert reason(BOX[:kept]) == "corrupt"


def node_cycle(tree: dict[str, Any]) -> None:
    count = len(tree["nodes"])
    tree["nodes"] += [{"name": "a", "children": [count + 1]}, {"name": "b", "children": [count], "mesh": 0}]
    tree["scenes"][0]["nodes"].append(count)


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda tree: tree.update(scene=5), "corrupt"),
        (node_cycle, "corrupt"),
        (lambda tree: tree["nodes"][0].update(children=[99]), "corrupt"),
        (lambda tree: tree["meshes"][0].update(primitives=[{}]), "corrupt"),
        (lambda tree: tree["accessors"][0].update(count=-5), "corrupt"),
        (lambda tree: tree["scenes"][0].update(nodes=[]), "empty"),
        (lambda tree: tree["meshes"][0]["primitives"][0].update(mode=1), "no_faces"),
        (lambda tree: tree["nodes"][-1].update(scale=[0, 0, 0]), "degenerate"),
        (lambda tree: tree["nodes"][-1].update(matrix=[float("nan")] * 16), "not_finite"),
        (lambda tree: tree["buffers"][0].update(uri="/etc/hostname"), "external_files"),
        (lambda tree: tree["buffers"][0].update(uri="https://example.org/x.bin"), "external_files"),
        (lambda tree: tree.update(images=[{"uri": "../secret.png"}]), "external_files"),
        (lambda tree: tree.update(extensionsRequired=["KHR_draco_mesh_compression"]), "unsupported"),
    ],
)
def test_broken_scenes_are_told_apart(edit: Edit, expected: str) -> None:
    assert reason(edited(BOX, edit)) == expected


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda tree: tree["images"][0].update(mimeType="image/ktx2"), "unsupported"),
        (lambda tree: tree["textures"][0].pop("source"), "unsupported"),
        (lambda tree: base_texture(tree).update(texCoord=1), "unsupported"),
        (
            lambda tree: base_texture(tree).update(extensions={"KHR_texture_transform": {"scale": [2, 2]}}),
            "unsupported",
        ),
        (lambda tree: tree["textures"][0].update(source=7), "corrupt"),
        (lambda tree: base_texture(tree).update(index=7), "corrupt"),
    ],
)
def test_textures_that_would_be_dropped_in_silence_are_refused(edit: Edit, expected: str) -> None:
    assert reason(edited(TEXTURED, edit)) == expected


def base_texture(tree: dict[str, Any]) -> dict[str, Any]:
    return tree["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"]


def test_an_image_that_is_none_is_a_bad_texture() -> None:
    start = TEXTURED.index(b"\x89PNG")
    with pytest.raises(MeshError, match="bad_texture"):
        load_mesh(TEXTURED[:start] + b"\0" * 8 + TEXTURED[start + 8 :], "glb")


OBJ = "v 0 0 0\nv {} 0 0\nv 0 {} 0\nf 1 2 {}\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (OBJ.format("nan", 1, 3), "not_finite"),
        (OBJ.format("inf", 1, 3), "not_finite"),
        (OBJ.format(0, 0, 3), "degenerate"),
        (OBJ.format(1, 0, 3), "degenerate"),
        (OBJ.format(1, 1, 9), "corrupt"),
        ("v 0 0 0\nv 1 0 0\nv 1 1 0\n", "no_faces"),
        ("", "empty"),
        ("mtllib other.mtl\nusemtl a\n" + OBJ.format(1, 1, 3), "external_files"),
    ],
)
def test_text_files_with_bad_geometry_are_told_apart(text: str, expected: str) -> None:
    assert reason(text.encode(), "obj") == expected


def test_a_point_cloud_has_no_faces() -> None:
    cloud = trimesh.PointCloud(np.random.default_rng(0).random((20, 3)))
    assert reason(cloud.export(file_type="ply"), "ply") == "no_faces"


def test_an_unknown_file_type_is_named_before_anything_is_read() -> None:
    assert reason(b"", "stl") == "file_type"


def test_the_face_limit_counts_instances() -> None:
    def three_times(tree: dict[str, Any]) -> None:
        tree["nodes"] = [{"mesh": 0} for _ in range(3)]
        tree["scenes"][0]["nodes"] = [0, 1, 2]

    thrice = edited(BOX, three_times)
    assert len(load_mesh(thrice, "glb", max_faces=36).geometry) == 3
    assert reason(thrice, max_faces=35) == "too_large"
    assert reason(BOX, max_faces=11) == "too_large"


def test_counts_that_no_file_holds_are_refused_before_memory_is_taken_for_them() -> None:
    def endless_positions(tree: dict[str, Any]) -> None:
        for accessor in tree["accessors"]:
            if accessor["type"] == "VEC3":
                accessor.pop("bufferView")
                accessor["count"] = 10**12

    assert reason(edited(BOX, endless_positions)) == "corrupt"
    assert reason(edited(BOX, lambda tree: tree["accessors"][0].update(count=10**12))) == "too_large"


def test_random_damage_never_gets_past_as_another_error() -> None:
    rng = np.random.default_rng(0)
    outcomes = set()
    for trial in range(200):
        data = bytearray((BOX, TEXTURED)[trial % 2])
        for place in rng.integers(20, len(data), rng.integers(1, 8)):
            data[place] = rng.integers(0, 256)
        try:
            load_mesh(bytes(data), "glb")
            outcomes.add("read")
        except MeshError as error:
            outcomes.add(error.reason)
    assert {"read", "corrupt"} <= outcomes


def test_an_embedded_webp_texture_is_read() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (9, 200, 9)).save(buffer, format="WEBP")
    mesh = textured_triangle()
    mesh.visual.material.image = Image.open(buffer)
    (loaded,) = load_mesh(glb(mesh), "glb").geometry.values()
    assert loaded.visual.material.baseColorTexture.convert("RGB").getpixel((4, 4))[1] > 150
