"""syncd study: a page and its key from the evaluation of a workspace, and a table from the answers."""

import json
from pathlib import Path

import pytest
import stage_runs
from study_objects import ROWS, evaluated

from configs.errors import ConfigError
from configs.load import load_recipe
from data.shards import sha256_file
from flows.study import analyse_study, make_study
from models.evaluation.study import CRITERIA


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    objects = [evaluated("chair-a", "chair", 20), evaluated("mug-a", "mug", 0)]
    samples = [(item.record.object_id, item.record, item.files) for item in objects]
    stage_runs.write_input(tmp_path / "run", "evaluate", samples, load_recipe("miniature"))
    return tmp_path / "run"


def test_a_study_is_made_from_the_evaluation_and_analysed(workspace: Path, tmp_path: Path) -> None:
    page, key_path = make_study(workspace, ROWS, tmp_path / "study", 3, 2, 0, "Which?")
    key = json.loads(key_path.read_text())
    assert page.read_text().startswith("<!doctype html>") and key["study"] in page.read_text()
    assert key["evaluation"] == sha256_file(workspace / "artifacts" / "evaluate" / "index.json")
    assert (len(key["practice"]), len(key["questions"])) == (3, 3)
    answers = [
        {"question": item["id"], **dict.fromkeys(CRITERIA, item.get("correct", "left"))}
        for item in (*key["practice"], *key["questions"])
    ]
    (tmp_path / "a.json").write_text(json.dumps({"study": key["study"], "rater": "a", "answers": answers}))
    said = analyse_study(key_path, [tmp_path / "a.json"])
    share = sum(item["left"] == ROWS[0] for item in key["questions"]) / 3
    assert f"| identity | {100 * share:.2f}" in said
    result = json.loads((tmp_path / "study" / "result.json").read_text())
    assert result["preferences"]["text"]["share"] == pytest.approx(share, abs=1e-4)
    assert result["raters"] == ["a"]


def test_equal_commands_write_equal_bytes(workspace: Path, tmp_path: Path) -> None:
    one, other = (make_study(workspace, ROWS, tmp_path / name, 0, 3, 1, "Which?") for name in ("one", "other"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]


def test_what_cannot_be_done_is_said_with_the_fix(workspace: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no evaluation; make one with: syncd run --until evaluate"):
        make_study(tmp_path, ROWS, tmp_path / "study", 3, 2, 0, "Which?")
    with pytest.raises(ConfigError, match="both rows are base; compare two"):
        make_study(workspace, ("base", "base"), tmp_path / "study", 3, 2, 0, "Which?")
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(ConfigError, match="holds list; needed: an object"):
        analyse_study(tmp_path / "x.json", [])
    with pytest.raises(ConfigError, match="cannot be read as JSON"):
        analyse_study(tmp_path / "gone.json", [])
