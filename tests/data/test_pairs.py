"""Text-image pairs: read in order, refused by reason, drawn as often as asked and each once in an epoch."""

import io
import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.pairs import PairOrder, PairsError, TextImage, pair_tars, read_pairs
from data.shards import Failure


def picture(width: int, height: int, form: str = "PNG", seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return path


def read(path: Path, members: dict[str, bytes]) -> list[TextImage | Failure]:
    return list(read_pairs(write_tar(path, members), 8, 8))


def test_pictures_and_captions_in_their_forms_are_read_in_order(tmp_path: Path) -> None:
    members: dict[str, bytes] = {}
    for key, form, extension in (("d/b", "JPEG", "jpg"), ("a", "JPEG", "JPEG"), ("c", "PNG", "png")):
        members[f"{key}.{extension}"] = picture(12, 8, form)
        members[f"{key}.txt"] = f"a mug\n  of {key} ".encode()
    members |= {"e.webp": picture(8, 8, "WEBP"), "e.json": json.dumps({"prompt": "a hat"}).encode()}
    members |= {"f.png": picture(8, 8), "f.txt": b" ", "f.json": b'{"caption": "a shoe", "prompt": "x"}', "f.cls": b"1"}
    found = read(tmp_path / "x.tar", members)
    assert [(pair.key, pair.caption) for pair in found] == [
        ("d/b", "a mug of d/b"), ("a", "a mug of a"), ("c", "a mug of c"), ("e", "a hat"), ("f", "a shoe")
    ]  # fmt: skip
    whole = np.asarray(Image.open(io.BytesIO(picture(12, 8))))
    np.testing.assert_array_equal(found[2].image, whole[:, 2:10], "the middle square")


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"a.txt": b"a mug"}, "no_picture"),
        ({"a.png": picture(8, 8)}, "no_caption"),
        ({"a.png": picture(8, 8), "a.txt": b"\n", "a.json": b'{"caption": null}'}, "no_caption"),
        ({"a.png": picture(8, 8), "a.txt": b"\xff\xfe"}, "bad_caption"),
        ({"a.png": picture(8, 8), "a.json": b"{"}, "bad_caption"),
        ({"a.png": picture(8, 8), "a.json": b"[]"}, "bad_caption"),
        ({"a.png": picture(8, 8), "a.json": b'{"caption": 3}'}, "bad_caption"),
        ({"a.png": b"no picture", "a.txt": b"a mug"}, "unreadable"),
        ({"a.png": picture(32, 32)[:400], "a.txt": b"a mug"}, "unreadable"),
        ({"a.jpg": picture(64, 64, "JPEG")[:900], "a.txt": b"a mug"}, "unreadable"),
        ({"a.png": picture(20, 7), "a.txt": b"a mug"}, "too_small"),
    ],
)
def test_what_cannot_be_used_is_told_by_reason_and_the_rest_is_read(
    members: dict[str, bytes], reason: str, tmp_path: Path
) -> None:
    bad, good = read(tmp_path / "x.tar", {**members, "b.png": picture(8, 8), "b.txt": b"a hat"})
    assert isinstance(bad, Failure) and (bad.key, bad.reason) == ("a", reason)
    assert bad.detail
    assert isinstance(good, TextImage) and good.key == "b"


def test_a_damaged_tar_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"a.png": picture(64, 64), "a.txt": b"a mug"})
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(PairsError, match=r"x\.tar: not a WebDataset tar that can be read .*; get it again"):
        list(read_pairs(path, 8, 8))
    path.write_bytes(b"no tar" * 200)
    with pytest.raises(PairsError, match=r"x\.tar: not a WebDataset tar"):
        list(read_pairs(path, 8, 8))


def test_tars_are_found_below_a_folder_in_the_order_of_their_names(tmp_path: Path) -> None:
    names = ["b.tar", "a.tar", "sub/c.tar", ".hidden.tar", "list.txt"]
    for name in names:
        write_tar(tmp_path / "web" / name, {"a.txt": b"x"})
    found = [path.relative_to(tmp_path / "web").as_posix() for path in pair_tars(tmp_path / "web")]
    assert found == ["a.tar", "b.tar", "sub/c.tar"]
    assert pair_tars(tmp_path / "web" / "b.tar") == [tmp_path / "web" / "b.tar"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(PairsError, match=r"empty: holds no \.tar; set train\.pairs"):
        pair_tars(tmp_path / "empty")


def drawn(examples: int, **settings: Any) -> list[int | None]:
    order = PairOrder(**settings)
    return [order.at(number) for number in range(examples)]


@pytest.mark.parametrize("share", [0.0, 0.05, 0.1, 1 / 3, 0.7, 1.0])
def test_the_share_holds_to_within_one_pair_at_every_length_of_a_run(share: float) -> None:
    found = np.cumsum([place is not None for place in drawn(3000, pairs=7, share=share, seed=3)])
    assert np.abs(found - share * np.arange(1, 3001)).max() <= 1


def test_every_epoch_draws_every_pair_once_and_in_an_order_of_its_own() -> None:
    found = [place for place in drawn(4000, pairs=50, share=0.1, seed=0) if place is not None]
    epochs = [found[start : start + 50] for start in range(0, 400, 50)]
    assert all(Counter(epoch) == Counter(range(50)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 8
    other = [place for place in drawn(4000, pairs=50, share=0.1, seed=1) if place is not None]
    assert other[:50] != epochs[0]


def test_which_pair_an_example_is_does_not_depend_on_what_was_asked_before() -> None:
    everything = drawn(400, pairs=9, share=0.3, seed=0)
    assert [PairOrder(9, 0.3, 0).at(number) for number in range(400)] == everything
    backwards = PairOrder(9, 0.3, 0)
    assert [backwards.at(number) for number in reversed(range(400))] == everything[::-1]
    assert len({tuple(place is None for place in drawn(10, pairs=9, share=0.1, seed=seed)) for seed in range(50)}) > 5
