"""Shards: equal samples give equal bytes, files appear whole or not at all, and changed bytes are found."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import webdataset

from data.shards import (
    Receipt,
    ShardEntry,
    ShardError,
    ShardIndex,
    ShardWriter,
    load_index,
    load_receipt,
    read_all,
    read_records,
    read_shard,
    read_tar,
    receipt_path,
    write_atomic,
)

SIGNATURE = "a" * 64


def write(folder: Path, files: dict[str, bytes], index: int = 0) -> Receipt:
    with ShardWriter(folder, "render", SIGNATURE, index) as out:
        out.add("alpha", {"n": 1}, files)
        out.fail("beta", "corrupt", "x" * 5000)
        out.add("gamma", {"n": 2})
        return out.finish({"seconds": 1.0})


def entry_of(receipt: Receipt) -> ShardEntry:
    return ShardEntry(name=receipt.name, bytes=receipt.bytes, sha256=receipt.sha256, keys=receipt.keys)


def test_equal_samples_give_equal_bytes_in_any_order_of_members(tmp_path: Path) -> None:
    first = write(tmp_path / "a", {"0.png": b"one", "1.png": b"two"})
    second = write(tmp_path / "b", {"1.png": b"two", "0.png": b"one"})
    assert first.sha256 == second.sha256
    assert (tmp_path / "a" / first.name).read_bytes() == (tmp_path / "b" / second.name).read_bytes()


def test_no_time_and_no_owner_enters_a_shard(tmp_path: Path) -> None:
    receipt = write(tmp_path, {"0.png": b"one"})
    with tarfile.open(tmp_path / receipt.name) as tar:
        assert {(member.mtime, member.uname, member.gname) for member in tar} == {(0, "", "")}
        assert tar.getnames() == ["alpha.0.png", "alpha.json", "gamma.json"]


def test_the_bytes_are_those_of_webdatasets_own_writer(tmp_path: Path) -> None:
    receipt = write(tmp_path, {"0.png": b"one" * 700, "0.mask.png": b"m"})
    with (tmp_path / "theirs.tar").open("wb") as stream:
        theirs = webdataset.TarWriter(stream, encoder=False, mtime=0, user="", group="")
        theirs.write({"__key__": "alpha", "json": b'{"n":1}', "0.png": b"one" * 700, "0.mask.png": b"m"})
        theirs.write({"__key__": "gamma", "json": b'{"n":2}'})
        theirs.close()
    assert (tmp_path / receipt.name).read_bytes() == (tmp_path / "theirs.tar").read_bytes()


def test_what_was_written_is_what_is_read(tmp_path: Path) -> None:
    receipt = write(tmp_path, {"0.mask.png": b"mask"})
    index = ShardIndex(stage="render", signature=SIGNATURE, shards=[entry_of(receipt)], failed=receipt.failed)
    samples = list(read_all(tmp_path, index))
    assert [(sample.key, sample.record) for sample in samples] == [("alpha", {"n": 1}), ("gamma", {"n": 2})]
    assert samples[0].files == {"0.mask.png": b"mask"}
    assert [failure.reason for failure in receipt.failed] == ["corrupt"]
    assert len(receipt.failed[0].detail) == 2000


def test_records_are_read_past_the_files_beside_them(tmp_path: Path) -> None:
    receipt = write(tmp_path, {"0.png": b"x" * 4_000_000, "json.png": b"y" * 4_000_000})
    index = ShardIndex(stage="render", signature=SIGNATURE, shards=[entry_of(receipt)], failed=receipt.failed)
    before = bytes_read()
    records = list(read_records(tmp_path, index))
    assert bytes_read() - before < 100_000
    assert [(sample.key, sample.record, sample.files) for sample in records] == [
        (sample.key, sample.record, {}) for sample in read_all(tmp_path, index)
    ]


def bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.parametrize("key", ["a.b", "a/b"])
def test_a_key_that_would_break_member_names_is_refused(tmp_path: Path, key: str) -> None:
    with ShardWriter(tmp_path, "render", SIGNATURE, 0) as out, pytest.raises(ValueError, match="no dot and no slash"):
        out.add(key, {})


def test_keys_must_ascend(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "render", SIGNATURE, 0) as out:
        out.add("b", {})
        with pytest.raises(ValueError, match="ascend"):
            out.add("a", {})


def test_an_error_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), ShardWriter(tmp_path, "render", SIGNATURE, 0) as out:
        out.add("alpha", {})
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_process_killed_in_the_middle_leaves_neither_shard_nor_receipt(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom data.shards import ShardWriter\n"
        "out = ShardWriter(Path(sys.argv[1]), 'render', 'a' * 64, 0)\nout.add('alpha', {})\nos.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == -9
    assert load_receipt(tmp_path, 0, SIGNATURE) is None
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith(".")]


def test_write_atomic_keeps_the_old_file_when_the_new_one_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "index.json"
    write_atomic(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_receipt_proves_its_shard(tmp_path: Path) -> None:
    receipt = write(tmp_path, {})
    assert load_receipt(tmp_path, 0, SIGNATURE) == receipt
    assert load_receipt(tmp_path, 1, SIGNATURE) is None


@pytest.mark.parametrize(("change", "words"), [("flip", "sha256"), ("cut", "truncated"), ("delete", "missing")])
def test_a_shard_that_is_not_what_its_receipt_says_is_named(tmp_path: Path, change: str, words: str) -> None:
    receipt = write(tmp_path, {"0.png": b"one"})
    path = tmp_path / receipt.name
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    if change == "flip":
        path.write_bytes(data)
    elif change == "cut":
        path.write_bytes(data[:-512])
    else:
        path.unlink()
    with pytest.raises(ShardError, match=words) as caught:
        load_receipt(tmp_path, 0, SIGNATURE)
    assert str(path) in str(caught.value)
    with pytest.raises(ShardError):
        list(read_shard(tmp_path, entry_of(receipt)))


def test_a_receipt_of_another_signature_or_place_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {})
    with pytest.raises(ShardError, match="made for signature"):
        load_receipt(tmp_path, 0, "b" * 64)
    os.rename(receipt_path(tmp_path, 0), receipt_path(tmp_path, 5))
    with pytest.raises(ShardError, match="delete it"):
        load_receipt(tmp_path, 5, SIGNATURE)


def test_a_stage_that_has_not_finished_says_how_to_run_it(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="syncd run --until render"):
        load_index(tmp_path / "render")
    (tmp_path / "render").mkdir(exist_ok=True)
    (tmp_path / "render" / "index.json").write_text('{"stage": "ren')
    with pytest.raises(
        ShardError, match=r"index\.json: not the index of a stage \(.*; delete it and run the stage again"
    ):
        load_index(tmp_path / "render")


def test_an_empty_shard_is_a_shard(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "render", SIGNATURE, 0) as out:
        out.fail("alpha", "empty")
        receipt = out.finish()
    assert list(read_tar((tmp_path / receipt.name).read_bytes())) == []
