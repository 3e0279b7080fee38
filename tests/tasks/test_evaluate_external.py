"""Images made elsewhere are found by a naming scheme or a manifest."""

import csv
import json
from pathlib import Path

import pytest

from configs.errors import ConfigError
from tasks.evaluation.external import read_manifest

LINE = {"object": "vase", "prompt": "a vase, in the snow", "seed": "3", "file": "made/1.jpg"}


def write_csv(folder: Path, *lines: dict[str, str]) -> Path:
    with (folder / "manifest.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(LINE))
        writer.writeheader()
        writer.writerows(lines)
    return folder


def test_a_folder_without_manifest_has_none(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None


def test_csv_and_json_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "manifest.json").write_text(json.dumps([{**LINE, "seed": 3}]))
    for folder in (write_csv(tmp_path / "a", LINE), tmp_path / "b"):
        assert read_manifest(folder) == {("vase", "a vase, in the snow", 3): folder / "made" / "1.jpg"}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{**LINE, "file": ""}], "entry 1 has no file; needed: object, prompt, seed, file"),
        ([{**LINE, "seed": "x"}], "entry 1 has the seed 'x'"),
        ([LINE, LINE], "entry 2 repeats"),
    ],
)
def test_a_manifest_that_cannot_be_used_names_the_entry(tmp_path: Path, lines: list, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_manifest(write_csv(tmp_path, *lines))
