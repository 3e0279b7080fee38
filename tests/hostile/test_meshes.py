"""Meshes that mean harm: each is refused with a reason, by what its header says or by a limit, and the next one reads.

SMALL are limits that a test can afford; the code has larger ones.
"""

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import bombs
import pytest
import stage_runs

from configs.load import load_recipe
from data import gltf
from data.assets.base import AssetCandidate, AssetError, FetchedMesh
from data.assets.folder import FolderSource
from data.mesh_errors import MeshError
from data.sandbox.client import check, convert, read_shape
from data.sandbox.confinement import Limits
from tasks import assets, render

SMALL = Limits(memory_bytes=512 << 20, cpu_s=2, wall_s=120.0)
SOUND = bombs.glb(bombs.triangle())


def reason(data: bytes, kind: str = "glb", limits: Limits = SMALL) -> str:
    with pytest.raises(MeshError) as caught:
        read_shape(data, kind, limits=limits)
    assert caught.value.detail
    return caught.value.reason


@pytest.fixture(autouse=True)
def the_next_mesh_reads() -> Iterator[None]:
    yield
    assert len(read_shape(SOUND, "glb").surfaces) == 1


BY_HEADER = {
    "2^31 positions": (bombs.with_accessor(0, count=2**31), "too_large"),
    "2^31 indices": (bombs.with_accessor(1, count=2**31), "too_large"),
    "-2^31 positions": (bombs.with_accessor(0, count=-(2**31)), "empty"),
    "positions of no bytes": (bombs.without_view(2**31), "corrupt"),
    "a view of 1 GB": (bombs.edited(bufferViews=[{"buffer": 0, "byteLength": 10**9}] * 2), "corrupt"),
    "a view of 4 GB": (bombs.edited(bufferViews=[{"buffer": 0, "byteLength": 4 * 10**9}] * 2), "too_large"),
    "4,000 copies of 1 MB": (bombs.copied(4000, 1_000_000), "too_large"),
    "sparse positions": (bombs.with_accessor(0, sparse={"count": 1}), "unsupported"),
    "10^6 nodes": (bombs.many_nodes(10**6), "too_large"),
    "10^5 instances": (bombs.instances(10**5), "too_large"),
    "a tree 10^5 deep": (bombs.chain(10**5), "too_large"),
    "500 meshes 500 deep": (bombs.chain(500, mesh_everywhere=True), "too_large"),
    "2^5000 ways down": (bombs.doubling(5000), "too_large"),
    "a cycle": (bombs.cycle(), "corrupt"),
    "a path out": (bombs.edited(buffers=[{"byteLength": 44, "uri": "../../etc/passwd"}]), "external_files"),
    "a file address": (bombs.edited(buffers=[{"byteLength": 44, "uri": "file:///etc/passwd"}]), "external_files"),
    "JSON 10^5 deep": (bombs.glb(b'{"a":' + b"[" * 10**5 + b"]" * 10**5 + b"}"), "corrupt"),
    "Draco": (bombs.edited(extensionsRequired=["KHR_draco_mesh_compression"]), "unsupported"),
    "an unknown extension": (bombs.edited(extensionsRequired=["XYZ_run_this"]), "unsupported"),
    "65,535 x 65,535 pixels": (bombs.textured(bombs.png_header(65535, 65535)), "bad_texture"),
    "pixels that break off": (bombs.textured(bombs.zeros_png(64, 64)[:-40]), "bad_texture"),
    "not finite": (
        bombs.glb(bombs.triangle(), b"\xff\xff\x7f\x7f\0\0\xc0\x7f" * 4 + bombs.TRIANGLE_BYTES[32:]),
        "not_finite",
    ),
    "a chunk that breaks off": (SOUND[:-12], "corrupt"),
    "a chunk of 2^32 bytes": (SOUND[:12] + b"\xff\xff\xff\xff" + SOUND[16:], "corrupt"),
}


@pytest.mark.parametrize("name", BY_HEADER)
def test_a_glb_that_promises_too_much_is_refused_for_what_it_promises(name: str) -> None:
    data, expected = BY_HEADER[name]
    start = time.process_time()
    assert reason(data) == expected
    assert time.process_time() - start < 1


def test_a_declared_gigabyte_that_is_not_there_costs_nothing() -> None:
    tree = bombs.triangle()
    tree["buffers"][0]["byteLength"] = 10**9
    assert len(read_shape(bombs.glb(tree), "glb", limits=SMALL).surfaces) == 1


def test_pixels_of_all_textures_count_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gltf, "MAX_PIXELS", 4095)
    with pytest.raises(MeshError, match="too_large: 4096 pixels in its textures; at most 4095"):
        gltf.check_gltf(bombs.textured(bombs.zeros_png(64, 64)), "glb", 10)


OTHER_FORMS = {
    "PLY with 2^31 vertices": (bombs.ply(2**31), "ply", "corrupt"),
    "PLY with 2^62 vertices": (bombs.ply(2**62), "ply", "corrupt"),
    "PLY with -5 vertices": (bombs.ply(-5), "ply", "corrupt"),
    "PLY with 2^31 faces": (bombs.ply(3, 2**31), "ply", "corrupt"),
    "text PLY with 2^40 vertices": (bombs.ply(2**40, body=b"0 0 0\n" * 9, form="ascii"), "ply", "no_faces"),
    "OBJ with a library outside": (
        b"mtllib ../../etc/passwd\nusemtl a\n" + bombs.obj_lines(3),
        "obj",
        "external_files",
    ),
}


@pytest.mark.parametrize("name", OTHER_FORMS)
def test_other_forms_that_promise_too_much(name: str) -> None:
    data, kind, expected = OTHER_FORMS[name]
    assert reason(data, kind) == expected


def test_lines_of_obj_that_ask_for_programs_are_passed_over(tmp_path: Path) -> None:
    text = f"shell touch {tmp_path}/run\ncall touch {tmp_path}/run\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"
    assert len(read_shape(text.encode(), "obj").surfaces) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_mesh_that_takes_too_much_memory_or_time_ends_its_own_process_alone() -> None:
    many = bombs.obj_lines(10**6)
    assert reason(many, "obj", Limits(memory_bytes=64 << 20)) == "too_much_memory"
    assert reason(bombs.instances(20_000), "glb", Limits(cpu_s=1)) == "too_slow"
    assert reason(bombs.instances(20_000), "glb", Limits(wall_s=0.2)) == "too_slow"
    assert reason(SOUND, "glb", Limits(file_bytes=100)) == "too_large"
    assert reason(SOUND, "glb", Limits(result_bytes=100)) == "crashed"


def test_no_connection_is_made(tmp_path: Path) -> None:
    calls: list[bool] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.3)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/x.png"

        def listen() -> None:
            try:
                server.accept()
                calls.append(True)
            except TimeoutError:
                pass

        listener = threading.Thread(target=listen)
        listener.start()
        for tree in ({"images": [{"uri": address}]}, {"buffers": [{"byteLength": 44, "uri": address}]}):
            assert reason(bombs.edited(**tree)) == "external_files"
        (tmp_path / "a.mtl").write_text(f"newmtl a\nmap_Kd {address}\n")
        (tmp_path / "a.obj").write_text("mtllib a.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nusemtl a\nf 1/1 2/1 3/1\n")
        with pytest.raises(AssetError, match="side_file_refused"):
            convert(tmp_path / "a.obj", (tmp_path / "a.obj").read_bytes())
        listener.join()
    assert calls == []


@pytest.mark.parametrize(
    "name", ["../secret.mtl", "..\\secret.mtl", "/etc/passwd", "file:///etc/passwd", "%2e%2e/secret.mtl"]
)
def test_side_files_come_from_the_folder_of_the_mesh_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.mtl").write_text("newmtl a\nKd 1 0 0\n")
    folder = tmp_path / "meshes"
    folder.mkdir()
    data = f"mtllib {name}\nv 0 0 0\nv 1 0 0\nv 0 1 0\nusemtl a\nf 1 2 3\n".encode()
    with pytest.raises(AssetError) as caught:
        convert(folder / "a.obj", data)
    assert caught.value.reason == "side_file_refused"


def test_a_mesh_asks_for_a_bounded_number_of_files_of_a_bounded_size(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(bombs.zeros_png(4, 4) + b"\0" * 2000)
    images = [{"uri": "a.png"}] * 9
    tree = bombs.triangle(images=images, buffers=[{"byteLength": 44, "uri": "a.png"}])
    data = json.dumps(tree).encode()
    for limits, said in ((Limits(side_files=5), "more than 5 files"), (Limits(file_bytes=1500), "larger than 1500")):
        with pytest.raises(AssetError, match="side_file_refused") as caught:
            convert(tmp_path / "a.gltf", data, limits)
        assert said in str(caught.value)


def test_a_link_beside_the_mesh_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "secret.mtl").write_text("newmtl a\nKd 1 0 0\n")
    folder = tmp_path / "meshes"
    folder.mkdir()
    (folder / "a.mtl").symlink_to("../secret.mtl")
    (folder / "a.obj").write_text("mtllib a.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nusemtl a\nf 1 2 3\n")
    (folder / "b.glb").symlink_to("/etc/hostname")
    source = FolderSource(folder, ["CC0-1.0"], default_licence="CC0-1.0")
    assert [(item.id, item.reason) for item in source.rejected()] == [("b", "outside_folder")]
    (asset,) = source.candidates()
    with pytest.raises(AssetError, match="side_file_refused"):
        source.fetch(asset)


def test_a_header_is_checked_in_the_sandbox_too() -> None:
    with pytest.raises(AssetError, match="corrupt"):
        check(bombs.glb(b'{"a":' + b"[" * 10**5 + b"]" * 10**5 + b"}"), "x.glb")
    with pytest.raises(AssetError, match="too_much_memory"):
        check(bombs.glb(b'{"a":[' + b"[]," * 3_000_000 + b"[]]}"), "x.glb", Limits(memory_bytes=64 << 20))


class Bombs:
    """A source of one sound mesh and two that are not."""

    name = "test"
    meshes: ClassVar = {
        "bomb": bombs.instances(10**5),
        "mug": SOUND,
        "path": bombs.edited(images=[{"uri": "../x.png"}]),
    }

    def candidates(self) -> list[AssetCandidate]:
        return [AssetCandidate(name, "mug", "a mug", "CC0-1.0", name) for name in sorted(self.meshes)]

    def rejected(self) -> list[object]:
        return []

    def fetch(self, candidate: AssetCandidate) -> FetchedMesh:
        data = check(self.meshes[candidate.id], candidate.id)
        return FetchedMesh(data, "0" * 64, "first_seen", "glb")


def test_stages_record_why_a_mesh_was_refused_and_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "open_source", lambda *_: Bombs())
    assets._opened.cache_clear()
    settings = ("assets.eval_share=0", "render.candidate_views=4", "render.resolution=32", "render.min_area=0.01")
    recipe = load_recipe("miniature", ("assets.count=3", *settings))
    index = stage_runs.run_stage(assets, stage_runs.context("assets", recipe, tmp_path, ()))
    assert index.keys == ["bomb", "mug"]
    assert [(failure.key, failure.reason) for failure in index.failed] == [("path", "external_files")]
    rendered = stage_runs.run_stage(render, stage_runs.context("render", recipe, tmp_path, ("assets",)))
    failed = {failure.key: failure for failure in rendered.failed}
    assert failed["bomb-s0"].reason == "too_large" and "at most 50000" in failed["bomb-s0"].detail
    assert failed.get("mug-s0") is None or failed["mug-s0"].reason == "too_few_views"
    assets._opened.cache_clear()
