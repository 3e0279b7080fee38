"""Digests of large files are computed once, and again when the file is touched."""

from pathlib import Path

import pytest

from data import digests
from data.digests import DigestCache
from data.shards import sha256_file


def test_a_file_is_read_again_only_when_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counted(path: Path) -> str:
        read.append(path.name)
        return sha256_file(path)

    monkeypatch.setattr(digests, "sha256_file", counted)
    files = [tmp_path / name for name in ("a", "b:1:2")]
    for file in files:
        file.write_bytes(b"first")

    def ask(*asked: Path) -> list[str]:
        cache = DigestCache.of_workspace(tmp_path)
        found = [cache.digest(path) for path in asked]
        cache.save()
        return found

    ask(*files)
    ask(files[0])
    assert ask(*files) == [sha256_file(path) for path in files]
    assert read == ["a", "b:1:2"], "asking for one file does not forget the other"
    files[0].write_bytes(b"second")
    assert ask(*files) == [sha256_file(path) for path in files]
    assert read == ["a", "b:1:2", "a"]
    assert len(DigestCache.of_workspace(tmp_path).known) == 2


@pytest.mark.parametrize("content", [b"", b'{"a', b"[]", b"\xff"])
def test_a_damaged_file_of_digests_is_an_empty_one(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"first")
    cache = DigestCache(tmp_path / "digests.json")
    cache.path.write_bytes(content)
    cache = DigestCache(cache.path)
    assert cache.digest(file) == sha256_file(file)
    cache.save()
    assert DigestCache(cache.path).known == cache.used
