"""The ablation of the data pipeline: rows on the same material, one line a run, finished shards reused."""

import csv
from pathlib import Path

import pytest

from configs.errors import ConfigError
from configs.schema import Runtime
from data.images import decode_png
from flows.ablation.data import ablate, chart, rows_of, write_tables
from flows.engine import run_stage
from flows.runners import serial
from models.evaluation.ablation import MEASURES, Run

RUNTIME = Runtime(runner="thread", workers=1, threads_per_worker=1, device="cpu", min_free_disk_gb=0)
SMALL = ("assets.count=6", "assets.eval_share=0", "generate.steps=6", "select.min_quality=-10")


def measured(folder: Path) -> tuple[list[Run], dict[str, int]]:
    """An ablation of two rows, and how many shards were made anew, by stage."""
    made: dict[str, int] = {}

    def run(stage: str, workspace: Path) -> None:
        done = run_stage(stage, workspace, RUNTIME, serial)
        made[stage] = made.get(stage, 0) + done.shards - done.reused

    runs = ablate("miniature", SMALL, ["no MSA, no warping"], [3], folder, run)
    return runs, made


def test_rows_share_what_comes_before_them_and_a_second_run_makes_nothing(tmp_path: Path) -> None:
    runs, made = measured(tmp_path)
    assert [(run.row, run.seed) for run in runs] == [("full", 3), ("no MSA, no warping", 3), ("renders", 3)]
    assert runs[2].mean("identity_masked") > max(run.mean("identity_masked") for run in runs[:2])
    assert not runs[2].has("quality")
    assert list(runs[0].values) == list(runs[1].values) and len(runs[0].values) >= 5
    assert made == {"assets": 1, "prompts": 1, "render": 1, "generate": 2, "score": 2, "select": 2}
    assert runs[0].mean("identity") != runs[1].mean("identity")
    again, nothing = measured(tmp_path)
    assert set(nothing.values()) == {0}
    assert [run.values for run in again] == [run.values for run in runs]

    paths = write_tables(runs, tmp_path, "title <b>")
    lines = list(csv.DictReader(paths[0].open()))
    assert [line["row"] for line in lines] == ["full", "no MSA, no warping", "renders"]
    assert lines[2]["identity_masked"] and not lines[2]["quality"] and not lines[2]["image_yield"]
    for line, run in zip(lines[:2], runs[:2], strict=True):
        assert all(float(line[measure]) == pytest.approx(run.mean(measure), abs=1e-6) for measure in MEASURES)
        assert float(line["image_yield"]) == pytest.approx(run.image_yield, abs=1e-4)
    assert "| full |" in paths[1].read_text() and "[" in paths[1].read_text()
    assert "title &lt;b&gt;" in paths[2].read_text() and "://" not in paths[2].read_text()
    assert decode_png(chart(runs)).shape[0] > 100


def test_groups_and_rows_are_taken_by_name_with_the_base_row_first() -> None:
    assert list(rows_of("rigid", ["paper"])) == ["full", "no warping", "no MSA, no warping"]
    assert list(rows_of("rigid", ["stacked RoPE"])) == ["full", "stacked RoPE"]
    assert len(rows_of("rigid", ["all"])) == 10 and next(iter(rows_of("deformable", []))) == "full"
    with pytest.raises(ConfigError, match="'no depth' is not known; groups: all, paper, warp, attention; rows: full"):
        rows_of("rigid", ["no depth"])
