"""The ablation of the customization model: rows that share a training share it, and a second run makes nothing."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from configs.schema import Runtime
from flows.ablation.model import Run, ablate, write_tables
from flows.engine import run_stage
from flows.runners import serial

RUNTIME = Runtime(runner="thread", workers=1, threads_per_worker=1, device="cpu", min_free_disk_gb=0)
SMALL = (
    "assets.count=8",
    "assets.eval_share=0.25",
    "render.max_sets=2",
    "prompts.eval_background=1",
    "prompts.eval_property=1",
    "generate.steps=3",
    "select.min_quality=-10",
    "select.min_identity=-1",
    "train.steps=2",
    "train.batch=2",
    "evaluate.objects=2",
    "evaluate.seeds=[0]",
    "evaluate.steps=2",
)
WANTED = ("1 reference", "2 references", "normalised, 1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ablation")


def measured(folder: Path, recipe: str, wanted: Sequence[str]) -> tuple[list[Run], dict[str, int]]:
    """An ablation, and how many shards were made anew, by stage."""
    made: dict[str, int] = {}

    def run(stage: str, workspace: Path) -> None:
        done = run_stage(stage, workspace, RUNTIME, serial)
        made[stage] = made.get(stage, 0) + done.shards - done.reused

    return ablate(recipe, SMALL, wanted, [5], folder, run), made


def test_rows_share_a_training_and_a_second_run_makes_nothing(folder: Path) -> None:
    runs, made = measured(folder, "miniature", WANTED)
    assert [run.row for run in runs] == list(WANTED)
    assert made["train"] == 1 and made["evaluate"] == 2 and made["generate"] == 1
    for run in runs:
        assert {score["seed"] for score in run.scores} == {5000} and len(run.scores) == 4
    one, two, weaker = (run.mean("identity") for run in runs)
    assert len({one, two, weaker}) == 3, "each row is another image"
    again, nothing = measured(folder, "miniature", WANTED)
    assert set(nothing.values()) == {0}
    assert [run.scores for run in again] == [run.scores for run in runs]

    paths = write_tables(runs, WANTED, folder, "A title")
    text = paths[1].read_text()
    assert "## references: rows" in text and "## guidance: rows" in text
    assert f"| 2 references | {runs[1].sets} | {two:.3f}" in text
    for group in ("references", "guidance"):
        assert {f"{group}.png", f"{group}_images.png"} <= {path.name for path in folder.iterdir()}


def test_the_rows_of_the_thesis_are_made_by_the_u_net_on_the_same_dataset(folder: Path) -> None:
    """After the test above, whose stages up to the dataset are this one's."""
    runs, made = measured(folder, "miniature-unet", ["paper"])
    assert [run.row for run in runs] == [
        "base adapter (1)",
        "+ our guidance (1)",
        "+ dataset (1)",
        "+ MSA (1)",
        "+ MSA (3)",
    ]
    assert made.get("generate", 0) == 0 and made["train"] == 2 and made["evaluate"] == 2
    assert len({run.mean("identity") for run in runs}) == 5, "each row is another image"
    assert runs[2].loss != runs[3].loss
