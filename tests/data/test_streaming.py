"""Shards of a store against the same shards on disk: equal samples in equal order, fetched ahead, verified."""

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from s3_server import SLOW_DOWN, Request, S3Server, s3_server

from data import store as store_module
from data.origin import clear_origin, set_origin
from data.reader import ShardReader
from data.shards import Sample, ShardEntry, ShardError, ShardIndex, ShardWriter, read_all, sha256_file
from data.store import MissingError, Store
from data.streaming import ShardSource

SIZES = (5, 3, 1, 4, 6, 2)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "PAUSES_SECONDS", (0.0, 0.0))


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as running:
        yield running


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory, entries = tmp_path_factory.mktemp("shard"), []
    for number, size in enumerate(SIZES):
        with ShardWriter(directory, "shard", "s" * 64, number) as out:
            for place in range(size):
                out.add(f"object-{number}{place}-s0", {"place": place}, {"0.png": bytes([number, place]) * 500})
            receipt = out.finish()
        entries.append(ShardEntry(**receipt.model_dump(include={"name", "bytes", "sha256", "keys"})))
    index = ShardIndex(stage="shard", signature="s" * 64, shards=entries, failed=[])
    (directory / "index.json").write_text(index.model_dump_json())
    return directory


@pytest.fixture
def url(stage: Path, server: S3Server) -> str:
    server.fault = None
    store = Store(f"{server.make_bucket()}/shard/0123")
    for path in [*stage.glob("*.tar"), stage / "index.json"]:
        store.add(path.name, path, sha256_file(path))
    server.requests.clear()
    return store.url


def fetched(server: S3Server) -> list[str]:
    return [path.rpartition("/")[2] for method, path in server.requests if method == "GET" and path.endswith(".tar")]


def three_epochs(place: Path | str, **settings: int) -> list[Sample]:
    reader = ShardReader(place, seed=3, **settings)
    return [sample for _ in range(3) for sample in reader]


@pytest.mark.parametrize("ahead", [0, 1, 4, 50])
@pytest.mark.parametrize("buffer", [0, 4, 100])
def test_a_store_gives_the_samples_of_a_disk_in_their_order(stage: Path, url: str, buffer: int, ahead: int) -> None:
    expected = three_epochs(stage, buffer=buffer)
    assert three_epochs(url, buffer=buffer, ahead=ahead) == expected
    assert len(expected) == 3 * sum(SIZES)


def test_a_store_resumes_where_a_disk_stopped(stage: Path, url: str) -> None:
    reader = ShardReader(stage, seed=2, rank=1, world_size=2, buffer=5)
    read = list(islice(reader, 4))
    streamed = ShardReader(url, seed=2, rank=1, world_size=2, buffer=5).load_state_dict(reader.state_dict())
    assert [*read, *streamed] == list(ShardReader(stage, seed=2, rank=1, world_size=2, buffer=5))


def test_shards_are_fetched_once_an_epoch_and_before_they_are_needed(stage: Path, url: str, server: S3Server) -> None:
    reader = ShardReader(url, seed=3, buffer=0, ahead=2)
    order = [reader.index.shards[number].name for number in dict.fromkeys(number for number, _ in reader._order)]
    samples = iter(reader)
    next(samples)
    for future in list(reader.source._coming.values()):
        future.result()
    assert sorted(fetched(server)) == sorted(order[:3]), "the first, and two more while it is used"
    assert list(reader.source._coming) == order[1:3]
    list(samples)
    for future in list(reader.source._coming.values()):
        future.result()
    following = [name for name in fetched(server) if fetched(server).count(name) == 2]
    assert set(order) <= set(fetched(server)) and len(set(following)) == 2, (
        "the next epoch's first two are on their way"
    )


def test_no_more_shards_are_held_than_was_asked_for(
    stage: Path, url: str, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However slowly they are used: what is fetched and not yet read is counted, with what is on its way."""
    lock, held, most = threading.Lock(), 0, 0
    bring, read = ShardSource._bring, ShardSource.read

    def counting_bring(self: ShardSource, entry: ShardEntry) -> bytes | None:
        nonlocal held, most
        with lock:
            held += 1
            most = max(most, held)
        return bring(self, entry)

    def counting_read(self: ShardSource, entry: ShardEntry, upcoming: list[ShardEntry]) -> Iterator[Sample]:
        nonlocal held
        samples = list(read(self, entry, upcoming))
        with lock:
            held -= 1
        return iter(samples)

    monkeypatch.setattr(ShardSource, "_bring", counting_bring)
    monkeypatch.setattr(ShardSource, "read", counting_read)
    for _ in ShardReader(url, seed=0, buffer=0, ahead=2):
        pass
    assert most <= 3


def test_a_server_that_fails_now_and_then_changes_nothing(stage: Path, url: str, server: S3Server) -> None:
    asked: dict[str, int] = {}

    def every_shard_at_first(request: Request) -> tuple[str, bytes] | None:
        asked[request[1]] = asked.get(request[1], 0) + 1
        return SLOW_DOWN if asked[request[1]] % 2 else None

    server.fault = every_shard_at_first
    assert three_epochs(url, buffer=4) == three_epochs(stage, buffer=4)
    assert len(asked) == len(SIZES) + 1


def test_a_corrupt_or_missing_object_is_named(stage: Path, url: str) -> None:
    store = Store(url)
    data = store.read("000003.tar")
    store.delete("000003.tar")
    with pytest.raises(MissingError, match=rf"{url}/000003\.tar: no such file"):
        list(ShardReader(url, seed=0))
    store.create("000003.tar", data[:-1] + b"!")
    with pytest.raises(ShardError, match=rf"{url}/000003\.tar: sha256"):
        list(ShardReader(url, seed=0))


def test_a_place_without_an_index_is_named_with_what_is_wanted(url: str) -> None:
    with pytest.raises(ShardError, match=r"index\.json: no such file; name the folder of a published stage"):
        ShardReader(url.rpartition("/")[0], seed=0)
    Store(url.rpartition("/")[0]).create("index.json", b"[]")
    with pytest.raises(ShardError, match=r"index\.json: not the index of a stage"):
        ShardReader(url.rpartition("/")[0], seed=0)


def test_a_folder_with_an_origin_fetches_what_is_read_and_keeps_it(
    stage: Path, url: str, server: S3Server, tmp_path: Path
) -> None:
    folder = tmp_path / "artifacts" / "shard"
    folder.mkdir(parents=True)
    shutil.copy(stage / "index.json", folder)
    with pytest.raises(ShardError, match=r"000000\.tar: missing"):
        list(read_all(folder, ShardReader(stage, seed=0).index))
    set_origin(folder, url)
    assert three_epochs(folder, buffer=4) == three_epochs(stage, buffer=4)
    assert sorted(fetched(server)) == sorted(path.name for path in stage.glob("*.tar")), "each once, in three epochs"
    assert {path.name for path in folder.iterdir()} == {"index.json", *(path.name for path in stage.glob("*.tar"))}
    clear_origin(folder)
    server.requests.clear()
    assert three_epochs(folder, buffer=4) == three_epochs(stage, buffer=4)
    (folder / "000001.tar").unlink()
    with pytest.raises(ShardError, match=r"000001\.tar: missing"):
        list(ShardReader(folder, seed=0))
    assert server.requests == []
    set_origin(folder, url)
    index = ShardReader(stage, seed=0).index
    assert list(read_all(folder, index)) == list(read_all(stage, index)), "any stage reads so, not training alone"


HELD_UP = """
import sys
from data.reader import ShardReader

print(next(iter(ShardReader(sys.argv[1], seed=0, buffer=0, ahead=2))).key, flush=True)
"""


def test_a_process_does_not_wait_at_its_end_for_shards_that_nobody_reads(
    stage: Path, url: str, server: S3Server
) -> None:
    """The first shard comes, those that are fetched ahead are held up."""
    expected = next(iter(ShardReader(stage, seed=0, buffer=0))).key
    first, free = f"00000{expected[len('object-')]}.tar", threading.Event()

    def hold_up(request: Request) -> None:
        if request[1].endswith(".tar") and not request[1].endswith(first):
            free.wait(60)

    server.fault = hold_up
    try:
        reading = subprocess.run(
            [sys.executable, "-c", HELD_UP, url], capture_output=True, text=True, timeout=50, check=True
        )
    finally:
        free.set()
    assert reading.stdout.strip() == expected
