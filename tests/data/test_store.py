"""A store on a disk and on S3, over real HTTP: written once, verified when read, patient where that helps."""

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from s3_server import SLOW_DOWN, Request, S3Server, s3_server

from data import store as store_module
from data.shards import ShardError
from data.store import ConflictError, MissingError, Store, StoreError, is_url

BIG = np.random.default_rng(0).bytes(200_000)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "PAUSES_SECONDS", (0.0, 0.0, 0.0))


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as running:
        yield running


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, server: S3Server, tmp_path: Path) -> Store:
    server.fault = None
    return Store(f"file://{tmp_path}/store" if request.param == "file" else f"{server.make_bucket()}/a/prefix")


def file_of(folder: Path, data: bytes) -> Path:
    path = folder / "file"
    path.write_bytes(data)
    return path


def test_what_is_added_is_listed_and_read_back(store: Store, tmp_path: Path) -> None:
    assert store.list() == {}
    assert store.add("shard/000000.tar", file_of(tmp_path, BIG), sha256(BIG))
    assert store.create("shard/000000.json", b"{}")
    assert store.create("empty", b"")
    listed = store.list()
    assert {name: item.bytes for name, item in listed.items()} == {
        "empty": 0,
        "shard/000000.json": 2,
        "shard/000000.tar": len(BIG),
    }
    assert list(store.below("shard").list()) == ["000000.json", "000000.tar"]
    assert store.below("sha").list() == {}, "a prefix is a folder, not the beginning of a name"
    assert store.read("shard/000000.json") == b"{}"
    assert store.read_verified("shard/000000.tar", len(BIG), sha256(BIG)) == BIG
    assert store.read_verified("empty", 0, sha256(b"")) == b""
    store.delete("empty")
    store.delete("empty")
    assert "empty" not in store.list()


def test_files_larger_than_a_block_are_read_in_blocks(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for size in (1, 999, 1000, 1001, 2000, 2001):
        data = BIG[:size]
        store.add(str(size), file_of(tmp_path, data), sha256(data))
        monkeypatch.setattr(store_module, "BLOCK_BYTES", 1000)
        assert store.fetch(str(size), tmp_path / "copies" / str(size), size, sha256(data)).read_bytes() == data
        for wrong in {max(1, size - 1), size + 1, size + 1000} - {size}:
            with pytest.raises(ShardError, match=f"/{size}: .* bytes, expected {wrong}"):
                store.read_verified(str(size), wrong, sha256(data))
    assert sorted(path.name for path in (tmp_path / "copies").iterdir()) == sorted(
        ["1", "999", "1000", "1001", "2000", "2001"]
    )


def test_a_name_is_written_once_and_by_one_of_two_writers(store: Store, tmp_path: Path) -> None:
    gate, won = threading.Barrier(4), []

    def write(number: int) -> None:
        gate.wait()
        if store.create("receipt.json", f"writer {number}".encode()):
            won.append(number)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(won) == 1
    assert store.read("receipt.json") == f"writer {won[0]}".encode()


def test_equal_bytes_may_be_added_again_and_others_may_not(store: Store, tmp_path: Path) -> None:
    path = file_of(tmp_path, BIG)
    assert store.add("a.tar", path, sha256(BIG))
    assert not store.add("a.tar", path, sha256(BIG))
    for other in (BIG[:-1], BIG + b"x", b"x" + BIG[1:]):
        with pytest.raises(ConflictError, match=r"a\.tar: .* expected .*, as .*/file has"):
            store.add("a.tar", file_of(tmp_path, other), sha256(other))
    assert store.read("a.tar") == BIG
    with pytest.raises(ShardError, match="/file: changed after it was finished"):
        store.add("a.tar", file_of(tmp_path, BIG[1:]), sha256(BIG))


def test_a_changed_object_is_refused_by_name_and_leaves_no_copy(store: Store, tmp_path: Path) -> None:
    store.add("a.tar", file_of(tmp_path, BIG), sha256(BIG))
    store.delete("a.tar")
    store.create("a.tar", BIG[:1000] + b"?" + BIG[1001:])
    with pytest.raises(ShardError, match=rf"a\.tar: sha256 .*, expected {sha256(BIG)}"):
        store.fetch("a.tar", tmp_path / "copy" / "a.tar", len(BIG), sha256(BIG))
    assert list((tmp_path / "copy").iterdir()) == []


def test_what_is_not_there_and_names_that_lead_out_are_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"none/such\.tar: no such file"):
        store.read("none/such.tar")
    with pytest.raises(MissingError):
        store.read_verified("none/such.tar", 5, "0" * 64)
    for name in ("../secret", "/etc/passwd", "a//b", "."):
        with pytest.raises(StoreError, match="plain relative path"):
            store.fetch(name, tmp_path / "copy", 1, "0" * 64)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://host/a", "allowed: file:///FOLDER and s3://BUCKET/PREFIX"),
        ("some/folder", "allowed: file:///FOLDER"),
        ("file://folder/a", "three slashes"),
        ("s3:///prefix", "names no folder of a bucket"),
        ("s3://bucket/a?versionId=1", "names no folder of a bucket"),
    ],
)
def test_other_urls_are_refused(url: str, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        Store(url)
    assert is_url(url) == ("://" in url)


class Failing:
    """Answers the first `times` requests of a method with 503."""

    def __init__(self, method: str, times: int) -> None:
        self.method, self.left = method, times

    def __call__(self, request: Request) -> tuple[str, bytes] | None:
        if request[0] != self.method or self.left == 0:
            return None
        self.left -= 1
        return SLOW_DOWN


def test_a_server_that_is_overloaded_for_a_while_is_asked_again(server: S3Server, tmp_path: Path) -> None:
    store = Store(server.make_bucket())
    server.fault = Failing("PUT", 3)
    assert store.add("a.tar", file_of(tmp_path, BIG), sha256(BIG))
    server.fault = Failing("GET", 3)
    assert store.read_verified("a.tar", len(BIG), sha256(BIG)) == BIG
    server.fault = Failing("GET", 1000)
    with pytest.raises(
        StoreError, match=r"a\.tar: .*tried 4 times, the same command goes on\. Is AWS_ENDPOINT"
    ) as said:
        store.read("a.tar")
    server.fault = None
    assert said.value.transient


def test_a_write_whose_answer_was_lost_is_found_to_have_been_made(server: S3Server, tmp_path: Path) -> None:
    """The PUT arrives, its answer does not; the next try is told that the name is taken, by the same bytes."""
    url = server.make_bucket()
    inner, lost = server._app, []

    def losing(environ: dict, start_response: object) -> object:
        answer = inner(environ, start_response if lost or environ["REQUEST_METHOD"] != "PUT" else lambda *_: None)
        if environ["REQUEST_METHOD"] == "PUT" and not lost:
            lost.append(list(answer))
            start_response(SLOW_DOWN[0], [("Content-Length", str(len(SLOW_DOWN[1])))])
            return [SLOW_DOWN[1]]
        return answer

    server._app = losing
    try:
        assert not Store(url).add("a.tar", file_of(tmp_path, BIG), sha256(BIG))
    finally:
        server._app = inner
    assert lost
    assert Store(url).read("a.tar") == BIG


def test_lacks_of_bucket_rights_and_server_are_told_apart(
    server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server.fault = None
    with pytest.raises(MissingError, match=r"s3://no-such-bucket: there is no such bucket; make it"):
        Store("s3://no-such-bucket").list()
    url = server.make_bucket()
    denied = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
    server.fault = lambda request: ("403 Forbidden", denied)
    with pytest.raises(StoreError, match=r"not allowed .*; check AWS_PROFILE") as said:
        Store(url).read("a")
    server.fault = None
    assert not said.value.transient
    with monkeypatch.context() as patch:
        patch.delenv("AWS_ACCESS_KEY_ID")
        patch.delenv("AWS_SECRET_ACCESS_KEY")
        patch.setenv("HOME", str(tmp_path))
        with pytest.raises(StoreError, match=r"not allowed .*; check AWS_PROFILE"):
            Store(url).read("a")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match=r"Is AWS_ENDPOINT_URL right \(http://127\.0\.0\.1:9\)") as said:
        Store(url).read("a")
    assert said.value.transient
