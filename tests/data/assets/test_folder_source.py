import hashlib
import io
import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from data.assets.base import AssetError, SourceError
from data.assets.folder import FolderSource, object_ids
from data.ids import check_object_id
from data.meshes import load_mesh

LICENCES = ["CC-BY-4.0", "CC0-1.0"]
REPOSITORY = Path(__file__).resolve().parents[3]
REAL_MESHES = Path(os.environ.get("SYNCD_TEST_MESHES", REPOSITORY.parent / "shared" / "meshes"))


def png(colour: tuple[int, int, int]) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(stream, "PNG")
    return stream.getvalue()


def write_glb(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(trimesh.creation.box().export(file_type="glb"))


def write_obj(folder: Path, texture: str = "tex/wood.png", library: str = "box.mtl") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "box.obj").write_text(
        f"mtllib {library}\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\nusemtl wood\nf 1/1 2/2 3/3\n"
    )
    (folder / "box.mtl").write_text(f"newmtl wood\nKd 1 1 1\nmap_Kd {texture}\n")
    (folder / "tex").mkdir(exist_ok=True)
    (folder / "tex" / "wood.png").write_bytes(png((200, 30, 30)))
    return folder / "box.obj"


def write_gltf(folder: Path, buffer: str = "box.bin", image: str = "wood%20grain.png") -> Path:
    """A textured triangle in three files."""
    folder.mkdir(parents=True, exist_ok=True)
    points = struct.pack("<9f", 0, 0, 0, 1, 0, 0, 0, 1, 0)
    corners = struct.pack("<6f", 0, 0, 1, 0, 0, 1)
    blob = points + corners + struct.pack("<3I", 0, 1, 2)
    (folder / "box.bin").write_bytes(blob)
    (folder / "wood grain.png").write_bytes(png((30, 30, 200)))
    views = [(0, 36), (36, 24), (60, 12)]
    header = {
        "asset": {"version": "2.0"},
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0, "TEXCOORD_0": 1}, "indices": 2, "material": 0}]}],
        "materials": [{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}],
        "textures": [{"source": 0}],
        "images": [{"uri": image}],
        "buffers": [{"uri": buffer, "byteLength": len(blob)}],
        "bufferViews": [{"buffer": 0, "byteOffset": start, "byteLength": size} for start, size in views],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3", "min": [0, 0, 0], "max": [1, 1, 0]},
            {"bufferView": 1, "componentType": 5126, "count": 3, "type": "VEC2"},
            {"bufferView": 2, "componentType": 5125, "count": 3, "type": "SCALAR"},
        ],
    }
    (folder / "box.gltf").write_text(json.dumps(header))
    return folder / "box.gltf"


def only(folder: Path) -> tuple[FolderSource, object]:
    source = FolderSource(folder, LICENCES, default_licence="by")
    (asset,) = source.candidates()
    return source, asset


def texture_colour(data: bytes) -> tuple[int, ...]:
    (mesh,) = trimesh.load_scene(io.BytesIO(data), file_type="glb").geometry.values()
    return mesh.visual.material.baseColorTexture.convert("RGB").getpixel((1, 1))


def test_lists_recursively_sorted_with_captions_from_names_and_the_default_licence(tmp_path: Path) -> None:
    write_glb(tmp_path / "b" / "Toy_duck.glb")
    write_glb(tmp_path / "a" / "deep" / "OldOwl.GLB")
    write_glb(tmp_path / ".hidden" / "x.glb")
    (tmp_path / "notes.txt").write_text("not a mesh")
    assets = FolderSource(tmp_path, LICENCES, default_licence="by").candidates()
    assert [(asset.id, asset.caption, asset.category, asset.licence) for asset in assets] == [
        ("a-deep-oldowl", "an old owl", "owl", "CC-BY-4.0"),
        ("b-toy-duck", "a toy duck", "duck", "CC-BY-4.0"),
    ]


def test_listing_is_the_same_after_moving_the_folder(tmp_path: Path) -> None:
    for name in ("b/Duck.glb", "a/duck.glb", "duck.glb"):
        write_glb(tmp_path / "one" / name)
    before = FolderSource(tmp_path / "one", LICENCES, "by").candidates()
    shutil.move(tmp_path / "one", tmp_path / "elsewhere")
    assert FolderSource(tmp_path / "elsewhere", LICENCES, "by").candidates() == before


def test_colliding_names_get_ids_that_depend_on_nothing_but_their_paths() -> None:
    ids = object_ids(["toy duck.glb", "Toy-Duck.obj", "mug.glb", "鸭.glb"])
    assert ids["mug.glb"] == "mug"
    digest = hashlib.sha256(b"toy duck.glb").hexdigest()[:8]
    assert ids["toy duck.glb"] == f"toy-duck-{digest}"
    assert ids["Toy-Duck.obj"].startswith("toy-duck-") and len(set(ids.values())) == 4
    assert ids["鸭.glb"].startswith("asset-")
    assert object_ids(["Toy-Duck.obj", "鸭.glb", "toy duck.glb"])["Toy-Duck.obj"] == ids["Toy-Duck.obj"]
    assert all(check_object_id(name) for name in object_ids(["x" * 300 + ".glb", "_-.glb"]).values())


def test_captions_file_rules_and_meshes_without_a_row_are_rejected(tmp_path: Path) -> None:
    for name in ("duck", "mug", "owl", "box"):
        write_glb(tmp_path / f"{name}.glb")
    (tmp_path / "captions.csv").write_text(
        "file,caption,licence\nduck.glb,a yellow duck,\nmug.glb,a mug,by-nc\nowl.glb,,cc0\n"
    )
    source = FolderSource(tmp_path, LICENCES, default_licence="CC0-1.0")
    assert [(asset.id, asset.caption, asset.licence) for asset in source.candidates()] == [
        ("duck", "a yellow duck", "CC0-1.0")
    ]
    rejected = {asset.id: (asset.reason, asset.detail) for asset in source.rejected()}
    assert rejected["mug"] == ("licence_not_allowed", "CC-BY-NC-4.0; allowed: CC-BY-4.0, CC0-1.0")
    assert rejected["owl"] == ("no_caption", "line 4 of captions.csv: empty")
    assert rejected["box"] == ("no_caption", "captions.csv has no row for it")


def test_whom_to_credit_is_among_the_attributes_of_an_asset(tmp_path: Path) -> None:
    write_glb(tmp_path / "duck.glb")
    (tmp_path / "captions.csv").write_text("file,caption,licence,author\nduck.glb,a duck,by,J. Doe\n")
    (duck,) = FolderSource(tmp_path, LICENCES).candidates()
    assert duck.attributes == {"file": "duck.glb", "author": "J. Doe"}


def test_unknown_licence_is_rejected_unless_the_allow_list_names_it(tmp_path: Path) -> None:
    write_glb(tmp_path / "duck.glb")
    source = FolderSource(tmp_path, LICENCES)
    assert source.candidates() == []
    assert [asset.reason for asset in source.rejected()] == ["licence_unknown"]
    (asset,) = FolderSource(tmp_path, [*LICENCES, "LicenseRef-unknown"]).candidates()
    assert asset.licence == "LicenseRef-unknown"


def test_other_mesh_formats_and_nameless_files_are_rejected_with_reasons(tmp_path: Path) -> None:
    write_glb(tmp_path / "duck.glb")
    write_glb(tmp_path / "007.glb")
    (tmp_path / "car.fbx").write_bytes(b"x")
    rejected = FolderSource(tmp_path, LICENCES, "by").rejected()
    assert [(asset.id, asset.reason) for asset in rejected] == [("007", "no_caption"), ("car", "unsupported_format")]


def test_a_link_out_of_the_folder_is_neither_listed_nor_read(tmp_path: Path) -> None:
    write_glb(tmp_path / "outside.glb")
    write_glb(tmp_path / "in" / "duck.glb")
    (tmp_path / "in" / "leak.glb").symlink_to(tmp_path / "outside.glb")
    source = FolderSource(tmp_path / "in", LICENCES, "by")
    assert [(asset.id, asset.reason) for asset in source.rejected()] == [("leak", "outside_folder")]
    (asset,) = source.candidates()
    with pytest.raises(AssetError, match="leads out of"):
        source.fetch(type(asset)("x", "", "", "CC-BY-4.0", "../outside.glb"))


def test_empty_and_absent_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no such folder; set assets\.folder"):
        FolderSource(tmp_path / "absent", LICENCES)
    with pytest.raises(SourceError, match="no mesh in it or below"):
        FolderSource(tmp_path, LICENCES).candidates()


def test_glb_passes_byte_for_byte(tmp_path: Path) -> None:
    write_glb(tmp_path / "duck.glb")
    source, asset = only(tmp_path)
    mesh = source.fetch(asset)
    original = (tmp_path / "duck.glb").read_bytes()
    assert mesh.data == original and mesh.sha256 == hashlib.sha256(original).hexdigest()
    assert (mesh.outcome, mesh.original_format, mesh.side_files) == ("first_seen", "glb", {})


def test_obj_keeps_its_texture_and_names_its_side_files(tmp_path: Path) -> None:
    path = write_obj(tmp_path)
    source, asset = only(tmp_path)
    mesh = source.fetch(asset)
    assert texture_colour(mesh.data) == (200, 30, 30)
    assert mesh.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() and mesh.original_format == "obj"
    expected = {
        name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in ("box.mtl", "tex/wood.png")
    }
    assert mesh.side_files == expected


def test_gltf_takes_its_buffer_and_percent_encoded_image(tmp_path: Path) -> None:
    write_gltf(tmp_path)
    source, asset = only(tmp_path)
    mesh = source.fetch(asset)
    assert texture_colour(mesh.data) == (30, 30, 200)
    assert sorted(mesh.side_files) == ["box.bin", "wood grain.png"] and mesh.original_format == "gltf"
    (loaded,) = trimesh.load_scene(io.BytesIO(mesh.data), file_type="glb").geometry.values()
    np.testing.assert_allclose(sorted(loaded.vertices.tolist()), [[0, 0, 0], [0, 1, 0], [1, 0, 0]])


def test_vertex_colours_of_a_ply_keep_their_look(tmp_path: Path) -> None:
    """PLY colours are sRGB, glTF's are linear: the values change so that the rendered colour does not."""
    box = trimesh.creation.box()
    box.visual.vertex_colors = np.tile(np.uint8([10, 200, 30, 255]), (len(box.vertices), 1))
    (tmp_path / "box.ply").write_bytes(box.export(file_type="ply"))
    source, asset = only(tmp_path)
    (straight,) = load_mesh((tmp_path / "box.ply").read_bytes(), "ply").geometry.values()
    (converted,) = load_mesh(source.fetch(asset).data, "glb").geometry.values()
    assert converted.visual.vertex_colors[0].tolist() == straight.visual.vertex_colors[0].tolist()
    assert converted.visual.vertex_colors[0].tolist() != [10, 200, 30, 255]
    assert len(converted.faces) == 12


@pytest.mark.parametrize(
    "way",
    [
        "../secret.png",
        "tex/../../secret.png",
        "/etc/hostname",
        "file:///etc/hostname",
        "http://127.0.0.1:9/wood.png",
        "..\\secret.png",
        "C:\\secret.png",
        "link.png",
    ],
)
def test_side_files_outside_the_asset_folder_are_refused(tmp_path: Path, way: str) -> None:
    (tmp_path / "secret.png").write_bytes(png((1, 2, 3)))
    write_obj(tmp_path / "in", texture=way)
    (tmp_path / "in" / "link.png").symlink_to(tmp_path / "secret.png")
    source, asset = only(tmp_path / "in")
    with pytest.raises(AssetError) as caught:
        source.fetch(asset)
    assert caught.value.reason == "side_file_refused" and not caught.value.transient


@pytest.mark.parametrize("way", ["../secret.bin", "%2e%2e/secret.bin", "/etc/hostname", "https://127.0.0.1:9/a.bin"])
def test_gltf_buffers_outside_the_asset_folder_are_refused(tmp_path: Path, way: str) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(72))
    write_gltf(tmp_path / "in", buffer=way)
    source, asset = only(tmp_path / "in")
    with pytest.raises(AssetError) as caught:
        source.fetch(asset)
    assert caught.value.reason == "side_file_refused"


@pytest.mark.parametrize(("texture", "library"), [("absent.png", "box.mtl"), ("tex/wood.png", "absent.mtl")])
def test_a_missing_side_file_fails_the_asset_instead_of_dropping_its_colours(
    tmp_path: Path, texture: str, library: str
) -> None:
    write_obj(tmp_path, texture, library)
    source, asset = only(tmp_path)
    with pytest.raises(AssetError, match="absent") as caught:
        source.fetch(asset)
    assert caught.value.reason == "side_file_missing"


def test_a_damaged_texture_fails_the_asset(tmp_path: Path) -> None:
    write_obj(tmp_path)
    (tmp_path / "tex" / "wood.png").write_bytes(png((1, 2, 3))[:-30])
    source, asset = only(tmp_path)
    with pytest.raises(AssetError) as caught:
        source.fetch(asset)
    assert caught.value.reason == "side_file_unreadable"


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("x.glb", b"glTF\x02", "corrupt"),
        ("x.gltf", b"{", "unreadable"),
        ("x.gltf", b'{"asset": {"version": "2.0"}}', "unreadable"),
        ("x.obj", b"v 0 0\nf 1 2 3\n", "unreadable"),
        ("x.ply", b"ply\nformat ascii 1.0\nelement vertex 9\n", "unreadable"),
        ("x.obj", b"", "unreadable"),
    ],
)
def test_damaged_meshes_fail_by_reason(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(data)
    source, asset = only(tmp_path)
    with pytest.raises(AssetError) as caught:
        source.fetch(asset)
    assert caught.value.reason == reason and not caught.value.transient


def test_a_mesh_deleted_since_the_listing_is_missing(tmp_path: Path) -> None:
    write_glb(tmp_path / "duck.glb")
    source, asset = only(tmp_path)
    (tmp_path / "duck.glb").unlink()
    with pytest.raises(AssetError, match=r"duck\.glb is no longer in") as caught:
        source.fetch(asset)
    assert caught.value.reason == "missing"


def test_conversion_gives_equal_bytes_in_another_process(tmp_path: Path) -> None:
    for number, write in enumerate((write_obj, write_gltf)):
        write(tmp_path / str(number))
    code = (
        "import base64, hashlib, sys; from pathlib import Path; from data.assets.folder import FolderSource\n"
        "source = FolderSource(Path(sys.argv[1]), ['CC0-1.0'], 'cc0')\n"
        "print([hashlib.sha256(source.fetch(asset).data).hexdigest() for asset in source.candidates()])"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=REPOSITORY,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1 and len(digests.pop()) > 128


def test_real_meshes_are_listed_and_pass(tmp_path: Path) -> None:
    if not REAL_MESHES.is_dir():
        pytest.skip(f"{REAL_MESHES} is not there; set SYNCD_TEST_MESHES to a folder with Duck.glb")
    source = FolderSource(REAL_MESHES, ["SCEA", "CC-BY-4.0"], default_licence="CC-BY-4.0")
    assert "duck" in {asset.category for asset in source.candidates()}
    assert all(source.fetch(asset).data[:4] == b"glTF" for asset in source.candidates())
