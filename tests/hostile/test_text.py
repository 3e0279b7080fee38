"""Tables, recipes, lists and ids from outside: run nothing, grow nowhere, lead nowhere."""

import csv
import io
import json
from pathlib import Path

import pytest
from fake_workspace import bare_workspace

from configs.errors import ConfigError
from configs.load import load_recipe, load_runtime
from data.assets.base import AssetCandidate, AssetError, SourceError
from data.assets.captions import read_cap3d, read_folder_captions
from data.assets.objaverse import read_uids
from data.assets.objaverse_cache import ObjaverseCache
from data.benchmarks import customconcept
from data.ids import check_object_id
from data.outside_text import csv_text, on_terminal, parse_json
from flows.errors import error_line
from flows.tables import print_table
from models.evaluation.files import as_csv
from models.evaluation.record import METRICS
from tasks.evaluation.external import read_manifest
from tasks.inspect_set import UnknownSetError, inspect_set

FORMULAS = ('=HYPERLINK("http://127.0.0.1/x")', "+1+cmd|' /C calc'!A0", "-2+3", "@SUM(1)", "\t=1", "\r=1")


@pytest.mark.parametrize("text", FORMULAS)
def test_a_spreadsheet_shows_text_that_it_would_run(text: str) -> None:
    (row,) = csv.reader(io.StringIO(csv_text([[text, "a mug", -0.5, "-0.25", "", None]]), newline=""))
    assert row == ["'" + text.replace("\r", "\n"), "a mug", "-0.5", "-0.25", "", ""]


def test_tables_of_an_evaluation_neutralise_names() -> None:
    cell = {"mean": -0.5, "standard_error": None, "low": None, "high": None, "seed_std": None}
    table = {"=1+1": {"all": {"objects": 1, "images": 2, METRICS[0]: cell}}}
    text = as_csv(table, {METRICS[0]: "@model"}, {"=1+1": "+made"})
    (line,) = list(csv.DictReader(io.StringIO(text)))
    assert (line["row"], line["mean"], line["backbone"], line["model"]) == ("'=1+1", "-0.5", "'@model", "'+made")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"file,caption\nmug.glb,a \0 mug\n", "line 2: holds a NUL"),
        (b"file,caption\nmug.glb,\xff\xfe\n", "line 2: byte 0xff is not UTF-8"),
        ("file,caption\nmug.glb,m\xfcg\n".encode("utf-16"), "not UTF-8"),
        (b"file,caption\nmug.glb," + b"x" * 200_000 + b"\n", "field larger than field limit"),
        (b'file,caption\nmug.glb,"a mug\n', "not readable as CSV"),
        (b"file,caption\n../../etc/passwd,a mug\n", "is not a mesh of the folder"),
    ],
)
def test_captions_that_cannot_be_read_name_their_line(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "captions.csv").write_bytes(data)
    with pytest.raises(SourceError, match=r"captions\.csv, line") as caught:
        read_folder_captions(tmp_path / "captions.csv", ["mug.glb"])
    assert said in str(caught.value)


def test_a_caption_that_is_a_formula_stays_the_words_it_is(tmp_path: Path) -> None:
    (tmp_path / "captions.csv").write_text('uid1,"=HYPERLINK(""http://127.0.0.1"")"\n')
    assert read_cap3d(tmp_path / "captions.csv") == {"uid1": '=HYPERLINK("http://127.0.0.1")'}


def laughs(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch MARK']",
        "name: !!python/object/new:os.system ['touch MARK']",
        "name: !!python/name:os.system",
        laughs(9),
        "name: &a [*a]",
        "name: " + "[" * 2_000,
        "name: \x00",
    ],
    ids=range(7),
)
def test_yaml_is_data_and_no_more_than_it_seems(tmp_path: Path, text: str) -> None:
    recipe, mark = tmp_path / "recipe.yaml", tmp_path / "mark"
    recipe.write_text(text.replace("MARK", str(mark)))
    for load in (load_recipe, load_runtime):
        with pytest.raises(ConfigError, match=r"recipe\.yaml: not valid YAML"):
            load(str(recipe))
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_recipe("miniature", (f"name={text.partition('name: ')[2] or text.splitlines()[-1]}",))
    assert not mark.exists()


def test_aliases_within_reason_are_read(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("workers: &n 3\nretries: *n\n")
    assert load_runtime(str(tmp_path / "run.yaml")).retries == 3


def test_json_that_is_nested_too_deeply_is_an_error_as_any_other() -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * 100_000)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "a/../../secret", "a\0b"])
def test_lists_of_outside_images_lead_nowhere_else(tmp_path: Path, name: str) -> None:
    (tmp_path / "row").mkdir()
    line = {"object": "mug", "prompt": "a mug", "seed": 0, "file": name}
    (tmp_path / "row" / "manifest.json").write_text(json.dumps([line]))
    with pytest.raises(ConfigError, match="leads out of"):
        read_manifest(tmp_path / "row")
    entry = {"class_prompt": "mug", "instance_data_dir": name, "prompt_filename": "x.txt"}
    (tmp_path / "row" / "dataset.json").write_text(json.dumps([entry]))
    with pytest.raises(ConfigError, match="leads out of"):
        customconcept.read(tmp_path / "row")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("manifest.csv", b"object,prompt,seed,file\nmug,\xff,0,x\n"),
        ("manifest.csv", b"object,prompt,seed,file\nmug,a,0," + b"x" * 200_000),
        ("manifest.json", b"[" * 100_000),
        ("manifest.json", b'{"object": 1}'),
        ("manifest.json", b"[3]"),
        ("manifest.json", b'[{"object": ["a"], "prompt": "x", "seed": 0, "file": "f"}]'),
        ("manifest.json", b'[{"object": "a", "prompt": "x", "seed": [0], "file": "f"}]'),
    ],
)
def test_lists_that_cannot_be_read_are_named(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigError, match=name):
        read_manifest(tmp_path)


@pytest.mark.parametrize("way", ["../../../../etc/passwd", "/etc/passwd", "a/b", "..", "a\0", "a.json"])
def test_ids_lead_nowhere(tmp_path: Path, way: str) -> None:
    with pytest.raises(ValueError, match="object id"):
        check_object_id(way)
    workspace = bare_workspace(tmp_path)
    with pytest.raises(UnknownSetError):
        inspect_set(workspace, way, load_recipe("miniature"))
    (tmp_path / "uids.txt").write_text(way + "\n")
    if "/" in way or "." in way:
        with pytest.raises(SourceError, match="is not a uid"):
            read_uids(tmp_path / "uids.txt")
    with pytest.raises(AssetError, match="missing"):
        ObjaverseCache(tmp_path, offline=True).mesh("x", f"glbs/000-000/{way}.glb", None)
    assert AssetCandidate(way, "", "", "", "").id == way


ESCAPES = "\x1b[2J\x1b[31mred\x07 \u202egnp.exe\r\nnext [bold]line[/bold]\x9b31m"


def test_what_is_printed_moves_no_cursor_and_sets_no_colour(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([["key", "reason"], ["mug", ESCAPES]])
    print(error_line(ConfigError(ESCAPES)))
    shown = capsys.readouterr().out
    assert not set(shown) & set("\x1b\x07\x9b\r\u202e")
    assert "[bold]line[/bold]" in shown and "\\x1b[31mred" in shown
    assert on_terminal("caf\xe9 \u9e2d\ttab\nline") == "caf\xe9 \u9e2d\ttab\nline"
