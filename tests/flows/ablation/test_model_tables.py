"""Tables and charts of the model's ablation, from runs made up so that the right numbers are known."""

import base64
import csv
import io
from pathlib import Path

import numpy as np
import pytest

from configs.errors import ConfigError
from configs.load import load_recipe
from data.images import decode_png, encode_png
from flows.ablation import model
from flows.ablation.page import draw
from flows.ablation.rows import as_overrides, chosen_rows, groups_of
from models.evaluation.record import METRICS
from tasks.evaluation.rows import rows_of

GROUPS = groups_of("model")


def run_of(row: str, seed: int, identity: dict[str, float], sets: int = 10) -> model.Run:
    """Two prompts of every object, 0.1 above and below its identity; text is the same everywhere."""
    empty = dict.fromkeys(METRICS)
    scores = [
        {
            **empty,
            "row": row,
            "kind": ("background", "property")[prompt],
            "object": name,
            "prompt": prompt,
            "seed": model.SEEDS_APART * seed,
            "identity": value + (0.1, -0.1)[prompt],
            "text": 0.5,
            "geometric": 0.4,
            "saturation": 0.3,
            "clipped": 0.0,
            "object_found": True,
        }
        for name, value in identity.items()
        for prompt in (0, 1)
    ]
    shades = {name: round(200 * value) + seed for name, value in identity.items()}
    pictures = {name: (plain(0), plain(shade)) for name, shade in shades.items()}
    return model.Run(row, seed, sets, 3, 0.25, scores, pictures)


def plain(shade: int) -> bytes:
    """A picture of one grey."""
    return encode_png(np.full((64, 64, 3), shade, np.uint8))


RUNS = [
    run_of("1 reference", 0, {"a": 0.2, "b": 0.4}),
    run_of("1 reference", 1, {"a": 0.4, "b": 0.6}, sets=12),
    run_of("2 references", 0, {"a": 0.3, "b": 0.5}),
    run_of("2 references", 1, {"a": 0.5, "b": 0.7}),
]


def test_means_are_over_objects_of_all_seeds_and_differences_are_paired() -> None:
    head, lines = model.table(RUNS)
    first, second = (dict(zip(head, line, strict=True)) for line in lines)
    assert first["identity (MDINOv2-I)"].startswith("0.400 [") and second["identity (MDINOv2-I)"].startswith("0.500 [")
    assert first["sets trained on"] == "10 to 12" and second["sets trained on"] == "10"
    assert second["identity (MDINOv2-I) minus 1 reference"] == "+0.100 [+0.100, +0.100]"
    assert first["identity (MDINOv2-I) minus 1 reference"] == ""
    assert "copy-paste" not in head


def test_every_run_is_a_line_of_the_csv() -> None:
    lines = list(csv.DictReader(io.StringIO(model.as_csv(RUNS))))
    assert [(line["row"], line["seed"]) for line in lines] == [(run.row, str(run.seed)) for run in RUNS]
    assert [float(line["identity"]) for line in lines] == pytest.approx([0.3, 0.5, 0.4, 0.6])
    assert lines[0]["copy_paste"] == "" and lines[0]["images"] == "4"


def test_points_of_a_sweep_are_drawn_as_lines() -> None:
    sweep = model.figures(RUNS, GROUPS["references"])
    assert sweep.places == {"1 reference": ("", 1.0), "2 references": ("", 2.0)} and sweep.axis == "references"
    mark = sweep.panels["identity (MDINOv2-I)"]["2 references"]
    assert (mark.mean, mark.seeds) == (0.5, (0.4, 0.6))
    alone = [run_of("3 categories", 0, {"a": 0.2, "b": 0.4})]
    bars = model.figures(alone, GROUPS["categories"])
    assert bars.places is None
    for figures in (sweep, bars):
        picture = decode_png(draw(figures))
        assert picture.shape[1] > 800 and np.unique(picture.reshape(-1, picture.shape[2]), axis=0).shape[0] > 20


def test_the_page_has_a_table_for_every_group(tmp_path: Path) -> None:
    paths = model.write_tables(RUNS, ["1 reference", "2 references"], tmp_path, "title <b>")
    page, text = paths[2].read_text(), paths[1].read_text()
    assert "title &lt;b&gt;" in page and "://" not in page and "references: rows" in text
    assert (tmp_path / "references.png").exists() and not (tmp_path / "paper.png").exists()
    sheet = (tmp_path / "references_images.png").read_bytes()
    assert base64.b64encode(sheet).decode() in page
    tiles = decode_png(sheet)[4 + 48 :: 100, -52::-100][:, 1::-1, 0]
    assert tiles.tolist() == [[0, 0], [40, 80], [60, 100]], "references, then each row, of the first seed alone"


def test_images_are_of_objects_that_all_rows_have_and_spread_over_them() -> None:
    many = {f"{number:02}": number / 100 for number in range(32)}
    rows = model.images([run_of("1 reference", 3, many), run_of("2 references", 3, {**many, "zz": 0.9})])
    assert list(rows) == ["reference", "1 reference", "2 references"]
    assert rows["1 reference"] == rows["2 references"] == [plain(2 * number + 3) for number in range(0, 32, 4)]


def test_every_row_is_a_recipe_and_names_a_row_of_the_evaluation() -> None:
    for group, rows in GROUPS.items():
        recipe = "miniature-unet" if group == "paper" else "miniature"
        for name, own in rows.items():
            changed = load_recipe(recipe, tuple(model._overrides({name: own})))
            assert own["row"] in [row.name for row in rows_of(changed.evaluate)], (group, name)
            assert all(model.X in one for one in rows.values()) or model.X not in own


def test_rows_that_a_model_has_not_are_refused() -> None:
    with pytest.raises(ConfigError, match="ip_adapter"):
        load_recipe("miniature", tuple(model._overrides({"base adapter (1)": GROUPS["paper"]["base adapter (1)"]})))
    with pytest.raises(ConfigError, match="row '5 references' is not known; groups: all, paper, references"):
        chosen_rows(GROUPS, ["5 references"])


def test_overrides_carry_values_of_any_kind() -> None:
    assert as_overrides({"a.b": 1.0, "a.c": [1, "x"], "a.d": None, "a.e": "none"}) == [
        "a.b=1.0",
        "a.c=[1, x]",
        "a.d=null",
        "a.e=none",
    ]
