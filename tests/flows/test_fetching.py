"""Checkpoints by URL: the file that the index vouches for, gone when the command ends."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from s3_server import S3Server, s3_server

from configs.errors import ConfigError
from data.shards import FileEntry, ShardError, ShardIndex, sha256_file
from data.store import MissingError, Store
from flows.fetching import checkpoint_at
from models.header import FILE_NAME

DATA = b"weights" * 1000


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as running:
        yield running


@pytest.fixture
def store(server: S3Server, tmp_path: Path) -> Store:
    """The folder of a train stage."""
    store, file = Store(f"{server.make_bucket()}/syncd/train/0123"), tmp_path / FILE_NAME
    file.write_bytes(DATA)
    entry = FileEntry(name=FILE_NAME, bytes=len(DATA), sha256=sha256_file(file))
    index = ShardIndex(stage="train", signature="0123", shards=[], failed=[], files=[entry])
    store.add(FILE_NAME, file, entry.sha256)
    store.create("index.json", index.model_dump_json().encode())
    return store


def test_a_folder_or_file_is_fetched_for_as_long_as_it_is_used(store: Store) -> None:
    for url in (store.url, f"{store.url}/", store.url_of(FILE_NAME)):
        with checkpoint_at(url) as file:
            assert file.read_bytes() == DATA
        assert not file.exists()


def test_a_file_that_is_not_the_published_one_is_refused(store: Store) -> None:
    store.delete(FILE_NAME)
    store.create(FILE_NAME, DATA[:-1] + b"!")
    for url in (store.url, store.url_of(FILE_NAME)):
        with pytest.raises(ShardError, match=rf"{FILE_NAME}: sha256"), checkpoint_at(url):
            pass


def test_a_file_without_an_index_is_taken_as_it_is(store: Store) -> None:
    store.delete("index.json")
    with checkpoint_at(store.url_of(FILE_NAME)) as file:
        assert file.read_bytes() == DATA
    with pytest.raises(ConfigError, match=r"index\.json: no such file; --checkpoint names a \.safetensors, or"):
        checkpoint_at(store.url).__enter__()
    with pytest.raises(MissingError, match="no such file"):
        checkpoint_at(store.url_of("other.safetensors")).__enter__()


def test_a_damaged_index_is_told(store: Store) -> None:
    store.delete("index.json")
    store.create("index.json", b'{"stage": "tr')
    for url in (store.url, store.url_of(FILE_NAME)):
        with pytest.raises(ShardError, match=rf"{store.url}/index\.json: not the index of a stage \("):
            checkpoint_at(url).__enter__()


def test_a_folder_of_another_stage_is_told(store: Store) -> None:
    with pytest.raises(ConfigError, match=r"index\.json lists no other\.safetensors"):
        checkpoint_at(store.url_of("other.safetensors")).__enter__()


def test_paths_stay_paths(tmp_path: Path) -> None:
    for given, expected in ((None, None), ("a/b", Path("a/b")), (f"file://{tmp_path}/b", tmp_path / "b")):
        with checkpoint_at(given) as file:
            assert file == expected
