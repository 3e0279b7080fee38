"""Stored pairs: the very picture and caption, computed once, read row by row, and refused with the reason."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.digests import DigestCache
from data.images import encode_png
from data.pairs import PairsError, TextImage, read_pairs
from data.shards import sha256_file
from models.training import pairs as pairs_module
from models.training.pairs import PairStore

SIDE = 8


def store_of(folder: Path, source: Path) -> PairStore:
    return PairStore(folder / "pairs", source, DigestCache.of_workspace(folder))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs_module, "CHUNK", 3)


def test_features_are_those_of_the_very_pair_across_tars_and_chunks(
    tmp_path: Path, customizer: Any, make_pairs: Any
) -> None:
    tars = [make_pairs(tmp_path / "web" / name, count) for name, count in (("a.tar", 7), ("b.tar", 2), ("c.tar", 3))]
    store = store_of(tmp_path, tmp_path / "web")
    store.prepare(customizer, SIDE, SIDE)
    expected = [(sha256_file(tar), sample) for tar in tars for sample in read_pairs(tar, SIDE, SIDE)]
    assert len(store) == len(expected) == 12
    for number, (tar, sample) in enumerate(expected):
        assert isinstance(sample, TextImage)
        found = store.pair(number)
        assert (found.tar, found.key) == (tar, sample.key)
        assert torch.equal(found.target["tokens"], customizer.target_features([sample.image])[0]["tokens"])
        assert torch.equal(found.text["pooled"], customizer.text_features([sample.caption])[0]["pooled"])
        assert torch.equal(found.no_text["pooled"], customizer.text_features([""])[0]["pooled"])


def test_a_tar_is_encoded_once_and_one_that_was_interrupted_anew(
    tmp_path: Path, make_customizer: Any, make_pairs: Any
) -> None:
    for name, count in (("a.tar", 4), ("b.tar", 5)):
        make_pairs(tmp_path / "web" / name, count)

    class Killed(make_customizer):
        def target_features(self, images: Any) -> Any:
            if len(self.encoded_images) == 7:
                raise KeyboardInterrupt
            return super().target_features(images)

    with pytest.raises(KeyboardInterrupt):
        store_of(tmp_path, tmp_path / "web").prepare(Killed(), SIDE, SIDE)
    second, third = make_customizer(), make_customizer()
    resumed = store_of(tmp_path, tmp_path / "web")
    resumed.prepare(second, SIDE, SIDE)
    assert len(second.encoded_images) == 5, "the second tar alone"
    again = store_of(tmp_path, tmp_path / "web")
    again.prepare(third, SIDE, SIDE)
    assert third.encoded_images == []
    whole = PairStore(tmp_path / "whole", tmp_path / "web", DigestCache.of_workspace(tmp_path))
    whole.prepare(make_customizer(), SIDE, SIDE)
    for number in range(9):
        pairs = [store.pair(number) for store in (resumed, again, whole)]
        assert len({pair.key for pair in pairs}) == 1
        assert all(torch.equal(pair.target["tokens"], pairs[0].target["tokens"]) for pair in pairs)


def test_bad_samples_are_counted_by_reason_and_named(
    tmp_path: Path, customizer: Any, make_pairs: Any, caplog: pytest.LogCaptureFixture
) -> None:
    more = {"x.png": b"no picture", "x.txt": b"a mug", "y.txt": b"a hat", "z.txt": b"another"}
    tar = make_pairs(tmp_path / "web.tar", 4, more)
    picture = encode_png(np.zeros((SIDE, SIDE, 3), np.uint8))
    long = make_pairs(tmp_path / "long.tar", 4, {"v.png": picture, "v.txt": b"a word " * 20})
    store = store_of(tmp_path, tar)
    with caplog.at_level(logging.WARNING):
        store.prepare(customizer, SIDE, SIDE)
    assert (len(store), store.skipped) == (4, {"no_picture": 2, "unreadable": 1})
    (line,) = [record.getMessage() for record in caplog.records]
    assert "web.tar: 3 of 7 pairs skipped: 2 no_picture, 1 unreadable; the first is x (unreadable: " in line
    listed = json.loads((tmp_path / "pairs" / f"{sha256_file(tar)}.json").read_text())["skipped"]
    assert [(own["key"], own["reason"]) for own in listed] == [
        ("x", "unreadable"), ("y", "no_picture"), ("z", "no_picture")
    ]  # fmt: skip
    store = store_of(tmp_path, long)
    store.prepare(customizer, SIDE, SIDE)
    assert (len(store), store.skipped) == (4, {"long_caption": 1}), "what the text encoder would cut"


def test_pairs_that_are_all_bad_or_none_are_an_error(tmp_path: Path, customizer: Any, make_pairs: Any) -> None:
    small = make_pairs(tmp_path / "small.tar", 3, side=4)
    with pytest.raises(PairsError, match=r"small\.tar: none of its samples can be trained on: 3 too_small; name other"):
        store_of(tmp_path, small).prepare(customizer, SIDE, SIDE)
    with pytest.raises(PairsError, match="there are none; name other pairs"):
        store_of(tmp_path, make_pairs(tmp_path / "none.tar", 0)).prepare(customizer, SIDE, SIDE)


def test_equal_tars_count_once(tmp_path: Path, customizer: Any, make_pairs: Any) -> None:
    data = make_pairs(tmp_path / "web" / "a.tar", 2).read_bytes()
    (tmp_path / "web" / "b.tar").write_bytes(data)
    store = store_of(tmp_path, tmp_path / "web")
    store.prepare(customizer, SIDE, SIDE)
    assert ([tar.name for tar in store.tars], len(store)) == (["a.tar"], 2)
