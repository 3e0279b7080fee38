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
