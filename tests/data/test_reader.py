import json
import shutil
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from data.images import encode_png
from data.reader import ShardReader, decode_set, epoch_order
from data.shards import ShardEntry, ShardError, ShardIndex, ShardWriter

SIZES = (5, 3, 1, 4, 6)


def make_stage(directory: Path, sizes: tuple[int, ...] = SIZES) -> Path:
    entries = []
    for number, size in enumerate(sizes):
        with ShardWriter(directory, "shard", "s" * 64, number) as out:
            for place in range(size):
                key = f"object-{number}{place}-s0"
                out.add(key, {"set_id": key}, {"0.png": bytes([number, place])})
            receipt = out.finish()
        entries.append(ShardEntry(name=receipt.name, bytes=receipt.bytes, sha256=receipt.sha256, keys=receipt.keys))
    index = ShardIndex(stage="shard", signature="s" * 64, shards=entries, failed=[])
    (directory / "index.json").write_text(index.model_dump_json())
    return directory


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_stage(tmp_path_factory.mktemp("shard"))


def keys_of(stage: Path, **settings: int) -> list[str]:
    return [sample.key for sample in ShardReader(stage, **settings)]


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 7, 19, 25])
@pytest.mark.parametrize("buffer", [0, 1, 4, 100])
@pytest.mark.parametrize("epoch", [0, 1])
def test_ranks_together_read_every_sample_once_and_evenly(
    stage: Path, world_size: int, buffer: int, epoch: int
) -> None:
    index = ShardReader(stage, seed=0).index
    parts = [epoch_order(index, 3, epoch, rank, world_size, buffer) for rank in range(world_size)]
    keys = Counter(key for part in parts for _, key in part)
    assert keys == Counter(index.keys)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_what_is_read_is_the_computed_order_with_the_right_bytes(stage: Path) -> None:
    reader = ShardReader(stage, seed=1, rank=1, world_size=2, buffer=3)
    expected = [key for _, key in epoch_order(reader.index, 1, 0, 1, 2, 3)]
    samples = list(reader)
    assert [sample.key for sample in samples] == expected
    for sample in samples:
        digits = sample.key.split("-")[1]
        assert sample.files["0.png"] == bytes(int(digit) for digit in digits)


def test_records_only_leaves_out_the_files_and_nothing_else(stage: Path) -> None:
    whole, records = (list(ShardReader(stage, seed=1, records_only=only)) for only in (False, True))
    assert [(sample.key, sample.record) for sample in records] == [(sample.key, sample.record) for sample in whole]
    assert all(sample.files for sample in whole) and not any(sample.files for sample in records)


def test_order_depends_on_seed_and_epoch_and_on_nothing_else(stage: Path) -> None:
    first = keys_of(stage, seed=5, buffer=8)
    assert first == keys_of(stage, seed=5, buffer=8)
    assert first != keys_of(stage, seed=6, buffer=8)
    reader = ShardReader(stage, seed=5, buffer=8)
    list(reader)
    second = [sample.key for sample in reader]
    assert second != first
    assert second == keys_of(stage, seed=5, buffer=8, epoch=1)


def test_shuffles_shards_and_within_the_buffer(stage: Path) -> None:
    index = ShardReader(stage, seed=0).index
    orders = [[key for _, key in epoch_order(index, seed, 0, 0, 1, 0)] for seed in range(8)]
    assert len({order[0] for order in orders}) > 1, "shards are shuffled even without a buffer"
    for order in orders:
        for entry in index.shards:
            places = [order.index(key) for key in entry.keys]
            assert places == list(range(places[0], places[0] + len(places))), "no buffer: shards stay whole"
    mixed = [key for _, key in epoch_order(index, 0, 0, 0, 1, 100)]
    apart = []
    for entry in index.shards:
        places = sorted(mixed.index(key) for key in entry.keys)
        apart.append(places[-1] - places[0] > len(places) - 1)
    assert any(apart), "a large buffer mixes shards"


@pytest.mark.parametrize("cut", [0, 1, 7, 18, 19, 20, 30])
def test_resumes_exactly_after_any_number_of_samples(stage: Path, cut: int) -> None:
    def endless(reader: ShardReader):
        while True:
            yield from reader

    whole = ShardReader(stage, seed=2, buffer=5)
    expected = [sample.key for sample in islice(endless(whole), 45)]
    first = ShardReader(stage, seed=2, buffer=5)
    read = [sample.key for sample in islice(endless(first), cut)]
    state = json.loads(json.dumps(first.state_dict()))
    second = ShardReader(stage, seed=2, buffer=5).load_state_dict(state)
    read += [sample.key for sample in islice(endless(second), 45 - cut)]
    assert read == expected


def test_holds_no_more_shards_than_the_buffer_needs(stage: Path) -> None:
    reader = ShardReader(stage, seed=0, buffer=0)
    for _ in reader:
        assert len(reader._open) <= 1


def test_a_state_of_other_data_or_another_division_is_refused(stage: Path, tmp_path: Path) -> None:
    state = ShardReader(stage, seed=0).state_dict()
    with pytest.raises(ValueError, match=r"seed is 0, but this reader has 1"):
        ShardReader(stage, seed=1).load_state_dict(state)
    with pytest.raises(ValueError, match=r"world_size is 1, but this reader has 2"):
        ShardReader(stage, seed=0, world_size=2).load_state_dict(state)
    other = make_stage(tmp_path / "other", (2, 2))
    with pytest.raises(ValueError, match="digest is"):
        ShardReader(other, seed=0).load_state_dict(state)


def test_a_changed_shard_is_refused_by_name(stage: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(stage, copy)
    path = copy / "000002.tar"
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ShardError, match=r"000002\.tar: sha256"):
        list(ShardReader(copy, seed=0))


def test_a_shard_without_a_listed_sample_is_refused(stage: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(stage, copy)
    listed = json.loads((copy / "index.json").read_text())
    listed["shards"][0]["keys"].append("object-zz-s0")
    (copy / "index.json").write_text(json.dumps(listed))
    with pytest.raises(ShardError, match=r"000000\.tar: its samples are not the keys"):
        list(ShardReader(copy, seed=0))


@pytest.mark.parametrize(("settings", "message"), [({"rank": 2, "world_size": 2}, "rank is 2"), ({"buffer": -1}, "-1")])
def test_impossible_settings_are_refused(stage: Path, settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShardReader(stage, seed=0, **settings)


def test_an_unfinished_stage_is_named(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"index\.json: missing"):
        ShardReader(tmp_path, seed=0)


def test_decodes_kept_images_and_names_a_missing_one(tmp_path: Path) -> None:
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    mask = np.arange(24).reshape(4, 6) % 3 == 0
    record = {
        "set_id": "mug-s0",
        "object_id": "mug",
        "samples": [{"index": 2, "sample_id": "mug-s0-2", "prompt": "a mug on a beach"}],
    }
    stage = tmp_path / "shard"
    with ShardWriter(stage, "shard", "s" * 64, 0) as out:
        out.add("mug-s0", record, {"2.png": encode_png(image), "2.mask.png": encode_png(mask)})
        out.add("mug-s1", {**record, "set_id": "mug-s1"}, {"2.png": encode_png(image)})
        receipt = out.finish()
    entry = ShardEntry(name=receipt.name, bytes=receipt.bytes, sha256=receipt.sha256, keys=receipt.keys)
    index = ShardIndex(stage="shard", signature="s" * 64, shards=[entry], failed=[])
    (stage / "index.json").write_text(index.model_dump_json())
    whole, broken = sorted(ShardReader(stage, seed=0), key=lambda sample: sample.key)
    decoded = decode_set(whole)
    assert (decoded.set_id, decoded.object_id) == ("mug-s0", "mug")
    assert decoded.images[0].prompt == "a mug on a beach"
    np.testing.assert_array_equal(decoded.images[0].image, image)
    np.testing.assert_array_equal(decoded.images[0].mask, mask)
    with pytest.raises(ShardError, match=r"mug-s1: its record lists image 2, but '2\.mask\.png'"):
        decode_set(broken)
