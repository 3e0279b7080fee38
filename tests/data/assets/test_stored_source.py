"""Meshes below an s3:// URL: the ids, bytes and reasons of the same files in a folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from s3_server import SLOW_DOWN, S3Server, s3_server

from configs.errors import ConfigError
from configs.load import load_recipe
from data import store as store_module
from data.assets.base import AssetError, SourceError
from data.assets.folder import FolderSource
from data.assets.stored import StoredFolderSource
from data.store import Store
from flows.inputs import input_values
from flows.workspace import choose_recipe
from tasks.assets import open_source

LICENCES = ("CC0-1.0",)
TRIANGLE = "v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\n"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "PAUSES_SECONDS", (0.0,))


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as running:
        yield running


@pytest.fixture(scope="module")
def meshes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import trimesh

    folder = tmp_path_factory.mktemp("meshes")
    box = trimesh.creation.box().export(file_type="glb")
    for name in ("cup.glb", "deep/er/hat.glb", "wood/box.obj", "wood/box.mtl", "wood/tex/grain.png", ".hidden.glb"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(box)
    (folder / "wood" / "box.obj").write_text(f"mtllib box.mtl\n{TRIANGLE}usemtl wood\nf 1/1 2/2 3/3\n")
    (folder / "wood" / "box.mtl").write_text("newmtl wood\nKd 1 1 1\nmap_Kd tex/grain.png\n")
    (folder / "wood" / "tex" / "grain.png").write_bytes(_png())
    (folder / "broken.glb").write_bytes(b"glTF, or not")
    (folder / "lamp.fbx").write_bytes(b"")
    return folder


def _png() -> bytes:
    import numpy as np

    from data.images import encode_png

    return encode_png(np.full((4, 4, 3), 200, np.uint8))


@pytest.fixture
def url(server: S3Server, meshes: Path) -> str:
    server.fault = None
    store = Store(f"{server.make_bucket()}/meshes")
    for path in meshes.rglob("*"):
        if path.is_file():
            store.create(path.relative_to(meshes).as_posix(), path.read_bytes())
    return store.url


def test_a_stored_folder_is_the_folder(url: str, meshes: Path) -> None:
    here = FolderSource(meshes, LICENCES, "CC0-1.0")
    there = StoredFolderSource(url, LICENCES, "CC0-1.0")
    assert there.candidates() == here.candidates()
    assert there.rejected() == here.rejected()
    assert [candidate.uri for candidate in there.candidates()] == [
        *("broken.glb", "cup.glb", "deep/er/hat.glb", "wood/box.obj"),
    ]
    for candidate in here.candidates():
        if candidate.uri == "broken.glb":
            with pytest.raises(AssetError, match="corrupt"):
                there.fetch(candidate)
            continue
        assert there.fetch(candidate) == here.fetch(candidate)
        assert there.fetch(candidate) == here.fetch(candidate), "again, after its copy is gone"
    box = here.fetch(here.candidates()[3])
    assert set(box.side_files) == {"box.mtl", "tex/grain.png"}


def test_captions_beside_the_meshes_are_read(url: str, meshes: Path) -> None:
    Store(url).create("captions.csv", b"file,caption,licence\ncup.glb,a red cup,CC0-1.0\n")
    there = StoredFolderSource(url, LICENCES)
    assert [(item.caption, item.licence) for item in there.candidates()] == [("a red cup", "CC0-1.0")]
    here = FolderSource(meshes, LICENCES)
    assert not here.candidates(), "without the file no licence is known"


def test_what_the_store_does_not_give_fails_that_asset_and_says_whether_to_try_again(
    url: str, server: S3Server
) -> None:
    there = StoredFolderSource(url, LICENCES, "CC0-1.0")
    cup = there.candidates()[1]
    server.fault = lambda request: SLOW_DOWN if request[1].endswith("cup.glb") else None
    with pytest.raises(AssetError, match=r"network: .*cup\.glb") as told:
        there.fetch(cup)
    assert told.value.transient
    server.fault = None
    Store(url).delete("cup.glb")
    with pytest.raises(AssetError, match=r"missing: .*cup\.glb: no such file") as told:
        there.fetch(cup)
    assert not told.value.transient
    with pytest.raises(SourceError, match="no mesh in it or below"):
        StoredFolderSource(f"{url}/none", LICENCES)
    with pytest.raises(SourceError, match=r"assets\.folder: s3://no-such-bucket: there is no such bucket"):
        StoredFolderSource("s3://no-such-bucket", LICENCES)


def test_a_recipe_names_a_url_and_its_digest_follows_what_is_stored(url: str, meshes: Path, tmp_path: Path) -> None:
    recipe = choose_recipe(tmp_path, "folder", (f"assets.folder={url}",))
    assert recipe.assets.folder == url
    assert isinstance(open_source(recipe.assets, 0, {}, tmp_path), StoredFolderSource)
    first = input_values(recipe, tmp_path)["assets"]
    assert input_values(recipe, tmp_path)["assets"] == first
    store = Store(url)
    store.delete("cup.glb")
    store.create("cup.glb", b"another cup")
    assert input_values(recipe, tmp_path)["assets"] != first
    store.delete("cup.glb")
    store.create("cup.glb", (meshes / "cup.glb").read_bytes())
    assert input_values(recipe, tmp_path)["assets"] == first
    local = choose_recipe(tmp_path, "folder", (f"assets.folder=file://{meshes}",))
    assert local.assets.folder == str(meshes)
    with pytest.raises(ConfigError, match=r"assets\.folder is s3://.*/none: no file below it; set it with"):
        input_values(choose_recipe(tmp_path, "folder", (f"assets.folder={url}/none",)), tmp_path)


def test_other_inputs_have_to_be_here(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"assets\.captions is s3://bucket/a\.csv; only assets\.folder may be a URL"):
        choose_recipe(tmp_path, "folder", ("assets.folder=meshes", "assets.captions=s3://bucket/a.csv"))
    assert load_recipe("folder", ("assets.folder=s3://bucket/a",)).assets.folder == "s3://bucket/a"
