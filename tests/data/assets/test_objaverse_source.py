import gzip
import hashlib
import json
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trimesh

from data.assets.base import AssetCandidate, AssetError, SourceError
from data.assets.fill_objaverse import fill
from data.assets.objaverse import ObjaverseSource, read_uids
from data.assets.objaverse_cache import FOLDER, OFFLINE_VARIABLES, ObjaverseCache

DUCK, CHAIR, BEAR, LOOSE = (character * 32 for character in "abcd")
PATHS = {
    DUCK: f"glbs/000-000/{DUCK}.glb",
    CHAIR: f"glbs/000-000/{CHAIR}.glb",
    BEAR: f"glbs/000-001/{BEAR}.glb",
    LOOSE: f"glbs/000-001/{LOOSE}.glb",
}
LVIS = {"duck": [DUCK], "chair": [CHAIR], "teddy_bear": [BEAR], "bear_(toy)": [BEAR]}
ANNOTATIONS = {
    DUCK: {
        "license": "by",
        "name": "Duck",
        "user": {"username": "quack", "displayName": "Q"},
        "viewerUrl": "https://x/d",
    },
    CHAIR: {"license": "by-nc", "name": "Chair", "user": {"username": "sit"}, "viewerUrl": "https://x/c"},
    BEAR: {"license": "cc0", "name": None, "user": None, "viewerUrl": None},
    LOOSE: {"license": None, "name": "?", "user": {}, "viewerUrl": ""},
}
CAPTIONS = f"{DUCK},a yellow duck\n{CHAIR},a chair\n{BEAR},a brown teddy bear\n{LOOSE},a red barrel with rust\n"
MESH = trimesh.creation.box().export(file_type="glb")


def dataset_files() -> dict[str, bytes]:
    """The dataset as published, by path."""
    metadata: dict[str, dict[str, Any]] = {}
    for uid, path in PATHS.items():
        metadata.setdefault(path.split("/")[1], {})[uid] = ANNOTATIONS[uid]
    packed = {"object-paths.json.gz": PATHS, "lvis-annotations.json.gz": LVIS}
    packed |= {f"metadata/{name}.json.gz": entries for name, entries in metadata.items()}
    return {path: gzip.compress(json.dumps(value).encode()) for path, value in packed.items()} | dict.fromkeys(
        PATHS.values(), MESH
    )


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        path = folder / FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def source_of(tmp_path: Path, **changes: Any) -> ObjaverseSource:
    captions = tmp_path / "cap3d.csv"
    captions.write_text(CAPTIONS)
    settings = {"licences": ["CC-BY-4.0", "CC0-1.0"], "uids": None, "digests": None, "offline": True} | changes
    return ObjaverseSource(cache=tmp_path / "cache", captions=captions, **settings)


def candidate(uid: str) -> AssetCandidate:
    return AssetCandidate(uid, "duck", "a duck", "CC-BY-4.0", f"hf://datasets/allenai/objaverse/{PATHS[uid]}")


@pytest.fixture(autouse=True)
def without_switches(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OFFLINE_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


class Server:
    """The dataset over HTTP on 127.0.0.1; `replies` overrides the status or body of a path."""

    def __init__(self) -> None:
        self.files = dataset_files()
        self.replies: dict[str, int | bytes] = {}
        self.requested: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.lstrip("/")
                server.requested.append(path)
                reply = server.replies.get(path, server.files.get(path, 404))
                if isinstance(reply, int):
                    self.send_error(reply)
                    return
                self.send_response(200)
                # One path promises more than it sends, as a connection that breaks off does.
                self.send_header("Content-Length", str(len(reply) + (100 if reply == b"cut" else 0)))
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_address[1]}/"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    running = Server()
    thread = threading.Thread(target=running.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    open_address = urllib.request.urlopen

    def redirected(url: str, *rest: Any, **named: Any) -> Any:
        base = "https://huggingface.co/datasets/allenai/objaverse/resolve/main/"
        assert url.startswith(base)
        return open_address(running.address + url.removeprefix(base), *rest, **named)

    monkeypatch.setattr(urllib.request, "urlopen", redirected)
    yield running
    running.http.shutdown()
    running.http.server_close()
    thread.join()


@pytest.mark.usefixtures("no_network")
def test_lists_the_lvis_subset_from_the_cache_with_licences_captions_and_attribution(tmp_path: Path) -> None:
    write(tmp_path / "cache", dataset_files())
    source = source_of(tmp_path)
    duck, bear = source.candidates()
    assert (duck.id, duck.category, duck.caption, duck.licence) == (DUCK, "duck", "a yellow duck", "CC-BY-4.0")
    assert duck.uri == f"hf://datasets/allenai/objaverse/{PATHS[DUCK]}"
    assert duck.attributes == {
        "title": "Duck", "author": "Q", "page": "https://x/d", "lvis_categories": ["duck"]
    }  # fmt: skip
    assert (bear.category, bear.attributes["lvis_categories"]) == ("bear", ["bear", "teddy bear"])
    assert [(asset.id, asset.reason, asset.detail) for asset in source.rejected()] == [
        (CHAIR, "licence_not_allowed", "CC-BY-NC-4.0; allowed: CC-BY-4.0, CC0-1.0")
    ]


@pytest.mark.usefixtures("no_network")
def test_uid_list_reaches_beyond_lvis_and_names_what_is_not_there(tmp_path: Path) -> None:
    files = dataset_files()
    changed = {
        uid: {**entry, "license": "by"} for uid, entry in ANNOTATIONS.items() if PATHS[uid].startswith("glbs/000-001")
    }
    files["metadata/000-001.json.gz"] = gzip.compress(json.dumps(changed).encode())
    write(tmp_path / "cache", files)
    uids = tmp_path / "uids.txt"
    uids.write_text(f"# chosen\n000-001/{LOOSE}\n\n{DUCK}\n{'e' * 32}\n")
    source = source_of(tmp_path, uids=uids)
    assert [(asset.id, asset.category) for asset in source.candidates()] == [(DUCK, "duck"), (LOOSE, "barrel")]
    assert [(asset.id, asset.reason) for asset in source.rejected()] == [("e" * 32, "not_in_objaverse")]


@pytest.mark.usefixtures("no_network")
def test_objects_without_licence_or_caption_are_rejected(tmp_path: Path) -> None:
    write(tmp_path / "cache", dataset_files())
    uids = tmp_path / "uids.txt"
    uids.write_text(f"{LOOSE}\n{DUCK}\n")
    source = source_of(tmp_path, uids=uids)
    (tmp_path / "cap3d.csv").write_text(f"{LOOSE},a barrel\n")
    assert [(asset.id, asset.reason) for asset in source.rejected()] == [
        (DUCK, "no_caption"),
        (LOOSE, "licence_unknown"),
    ]


@pytest.mark.usefixtures("no_network")
def test_cached_mesh_passes_byte_for_byte_and_its_digest_is_compared(tmp_path: Path) -> None:
    write(tmp_path / "cache", dataset_files())
    sha256 = hashlib.sha256(MESH).hexdigest()
    digests = tmp_path / "digests.csv"
    digests.write_text(f"uid,sha256\n{DUCK},{sha256}\n{BEAR},{'0' * 64}\n")
    source = source_of(tmp_path, digests=digests)
    found, seen = source.fetch(candidate(DUCK)), source.fetch(candidate(CHAIR))
    assert (found.data, found.sha256, found.outcome) == (MESH, sha256, "found")
    assert (seen.data, seen.sha256, seen.outcome) == (MESH, sha256, "first_seen")
    with pytest.raises(AssetError, match=f"sha256 {sha256}, expected 0000.*") as caught:
        source.fetch(candidate(BEAR))
    assert caught.value.reason == "modified" and "delete it" in caught.value.detail and not caught.value.transient


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("variable", [None, *OFFLINE_VARIABLES])
def test_offline_and_not_cached_says_what_is_missing_and_what_fills_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str | None
) -> None:
    if variable:
        monkeypatch.setenv(variable, "1")
    source = source_of(tmp_path, offline=variable is None)
    with pytest.raises(SourceError, match=r"object-paths\.json\.gz missing") as caught:
        source.candidates()
    assert str(tmp_path / "cache") in str(caught.value)
    assert "python -m data.assets.fill_objaverse --cache" in str(caught.value)
    assert (variable or "offline is true") in str(caught.value)
    with pytest.raises(AssetError, match="fill_objaverse") as failed:
        source.fetch(candidate(DUCK))
    assert failed.value.reason == "offline" and not failed.value.transient


@pytest.mark.usefixtures("no_network")
def test_offline_names_the_metadata_files_that_are_missing(tmp_path: Path) -> None:
    files = {name: data for name, data in dataset_files().items() if "metadata" not in name}
    write(tmp_path / "cache", files)
    with pytest.raises(SourceError, match=r"metadata/000-000\.json\.gz, .*metadata/000-001\.json\.gz missing"):
        source_of(tmp_path).candidates()


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", ["object-paths", "lvis-annotations", "metadata/000-001"])
@pytest.mark.parametrize("damage", [lambda data: data[:-12], lambda _: b"", lambda _: gzip.compress(b"{")])
def test_damaged_cache_file_is_named(tmp_path: Path, name: str, damage: Callable[[bytes], bytes]) -> None:
    files = dataset_files()
    file = f"{name}.json.gz"
    write(tmp_path / "cache", files | {file: damage(files[file])})
    with pytest.raises(SourceError, match=rf"Objaverse: [^ ,]*{file} cannot be read .* delete it"):
        source_of(tmp_path).candidates()


def test_downloads_once_into_the_layout_of_the_package(tmp_path: Path, server: Server) -> None:
    source = source_of(tmp_path, offline=False)
    assert [asset.id for asset in source.candidates()] == [DUCK, BEAR]
    mesh = source.fetch(candidate(DUCK))
    assert (mesh.data, mesh.outcome) == (MESH, "first_seen")
    assert (tmp_path / "cache" / FOLDER / PATHS[DUCK]).read_bytes() == MESH
    asked = list(server.requested)
    assert sorted(set(asked)) == sorted(asked) and f"metadata/{'000-000'}.json.gz" in asked
    again = source_of(tmp_path, offline=False)
    assert again.candidates() == source.candidates() and again.fetch(candidate(DUCK)) == mesh
    assert server.requested == asked


def test_expected_digest_is_compared_for_downloads_and_a_modified_file_is_not_kept(
    tmp_path: Path, server: Server
) -> None:
    digests = tmp_path / "digests.csv"
    digests.write_text(f"uid,sha256\n{DUCK},{hashlib.sha256(MESH).hexdigest()}\n{BEAR},{'0' * 64}\n")
    source = source_of(tmp_path, digests=digests, offline=False)
    assert source.fetch(candidate(DUCK)).outcome == "found"
    with pytest.raises(AssetError) as caught:
        source.fetch(candidate(BEAR))
    assert caught.value.reason == "modified"
    assert not (tmp_path / "cache" / FOLDER / PATHS[BEAR]).exists()


@pytest.mark.parametrize(
    ("reply", "reason", "transient"),
    [
        (404, "missing", False),
        (410, "missing", False),
        (403, "http", False),
        (429, "http", True),
        (500, "http", True),
        (503, "http", True),
        (b"cut", "network", True),
        (b"<html>busy</html>", "corrupt", False),
    ],
)
def test_every_download_failure_has_its_reason_and_leaves_nothing_behind(
    tmp_path: Path, server: Server, reply: int | bytes, reason: str, transient: bool
) -> None:
    server.replies[PATHS[DUCK]] = reply
    source = source_of(tmp_path, offline=False)
    with pytest.raises(AssetError) as caught:
        source.fetch(candidate(DUCK))
    assert (caught.value.reason, caught.value.transient) == (reason, transient)
    assert not list((tmp_path / "cache").rglob("*.glb*"))
    del server.replies[PATHS[DUCK]]
    assert source.fetch(candidate(DUCK)).data == MESH


def test_no_answer_is_a_transient_network_error(tmp_path: Path, server: Server) -> None:
    server.http.server_close()
    before = socket.getdefaulttimeout()
    with pytest.raises(AssetError) as caught:
        source_of(tmp_path, offline=False).fetch(candidate(DUCK))
    assert (caught.value.reason, caught.value.transient) == ("network", True)
    assert socket.getdefaulttimeout() == before


def test_failed_list_download_is_an_error_and_leaves_no_empty_file(tmp_path: Path, server: Server) -> None:
    server.replies["lvis-annotations.json.gz"] = 503
    source = source_of(tmp_path, offline=False)
    with pytest.raises(SourceError, match=r"lvis-annotations\.json\.gz could not be downloaded: HTTP Error 503"):
        source.candidates()
    del server.replies["lvis-annotations.json.gz"]
    assert len(source.candidates()) == 2


def test_a_path_that_is_no_mesh_of_the_dataset_is_never_opened(tmp_path: Path, server: Server) -> None:
    for path in ("glbs/../../../etc/passwd", "/etc/passwd", f"glbs/000-000/{DUCK}.glb/../x"):
        with pytest.raises(AssetError, match="is not a path of a mesh"):
            source_of(tmp_path, offline=False).fetch(
                AssetCandidate(DUCK, "", "", "CC-BY-4.0", f"hf://datasets/allenai/objaverse/{path}")
            )
    assert server.requested == []


def test_filled_cache_serves_an_offline_run(tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.replies[PATHS[CHAIR]] = 404
    assert fill(ObjaverseCache(tmp_path / "cache", offline=False), None, meshes=True) == 1
    printed = capsys.readouterr()
    assert "2 meshes there, 1 failed" in printed.out and f"{CHAIR}: missing" in printed.err
    asked = list(server.requested)
    offline = source_of(tmp_path)
    assert [offline.fetch(asset).data for asset in offline.candidates()] == [MESH, MESH]
    assert server.requested == asked


def test_captions_file_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"assets\.captions is not set"):
        ObjaverseSource(tmp_path, None, ["cc0"], None, None, True)


def test_uid_file_errors_name_the_line(tmp_path: Path) -> None:
    path = tmp_path / "uids.txt"
    path.write_text(f"{DUCK}\n../{CHAIR}\n")
    with pytest.raises(SourceError, match=r"uids\.txt, line 2"):
        read_uids(path)
