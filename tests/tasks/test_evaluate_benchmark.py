"""The evaluate stage on a published benchmark, with TIFA and a row of images made elsewhere."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from benchmark_folders import SUBJECTS, dreambench_plus, dreambooth, on_dreambooth, save
from evaluation_runs import SIDE, build_workspace, context_of, evaluated, prompts_of, small_recipe, train_small
from PIL import Image

from configs.load import load_recipe
from configs.schema import Recipe
from data.images import decode_png
from data.shards import ShardWriter
from models.evaluation.questions import Written
from tasks import evaluate
from tasks.evaluation import asking
from tasks.evaluation.asking import with_questions
from tasks.evaluation.benchmark import benchmark_subjects
from tasks.evaluation.subjects import Subject


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    root = tmp_path_factory.mktemp("models")
    whole = small_recipe(root)
    refs = {
        "vqa": tiny_models.ref_of(tiny_models.vqa_folder(root / "vqa"), "blip_vqa"),
        "dino": tiny_models.ref_of(tiny_models.dino_folder(root / "vit"), "dino"),
    }
    return whole.model_copy(update={"models": whole.models.model_copy(update=refs)})


@pytest.fixture(scope="module")
def trained(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_small(tmp_path_factory.mktemp("trained"), recipe)


def write_questions(folder: Path, *captions: str) -> None:
    asked = {"question": "what colour is it?", "choices": ["red", "blue"], "answer": "red"}
    (folder / "questions.json").write_text(json.dumps([{"caption": caption, **asked} for caption in captions]))


def test_a_benchmark_is_scored_with_its_prompts_masks_and_a_row_made_elsewhere(
    recipe: Recipe, trained: Path, tmp_path: Path
) -> None:
    folder = dreambooth(tmp_path / "benchmark")
    write_questions(folder, "a vase in the snow", "a red vase", "a teapot in the snow")
    theirs = tmp_path / "theirs"
    chosen = on_dreambooth(recipe, folder, external={"theirs": str(theirs)})
    for prompt in (0, 1):
        with Image.open(folder / "dataset" / "vase" / "00.png") as image:
            save(theirs / "vase" / f"p{prompt}.s0.png", np.asarray(image.crop((8, 0, 8 + SIDE, SIDE))))
    workspace = build_workspace(tmp_path / "run", recipe, trained, [], [])
    records, files, index = evaluated(workspace, chosen)
    assert {failure.key: failure.reason for failure in index.failed} == {
        "can": "too_few_references",
        "teapot": "no_questions",
    }
    record = records["vase"]
    assert [(prompt.text, prompt.kind) for prompt in record.prompts] == [
        ("a vase in the snow", "background"),
        ("a red vase", "property"),
    ]
    by_row: dict[str, list[Any]] = {}
    for image in record.images:
        by_row.setdefault(image.row, []).append(image)
    assert list(by_row) == ["base", "copy", "ours-2", "plain-2", "theirs"]
    np.testing.assert_array_equal(decode_png(files["vase"]["theirs.p0.s0.png"]), decode_png(files["vase"]["ref.0.png"]))
    for copied, same in zip(by_row["copy"], by_row["theirs"], strict=True):
        places = {"name", "row", "noise_seed", "references"}
        assert same.model_dump(exclude=places) == copied.model_dump(exclude=places), "the same picture, the same scores"
        assert (same.noise_seed, same.references) == (None, None)
        assert same.copy_paste is not None and same.diversity is None
    metrics = json.loads((workspace / "artifacts" / "evaluate" / "metrics.json").read_text())
    assert metrics["backbones"]["text"].startswith("tifa by tiny-vqa@")
    assert metrics["backbones"]["dino"].startswith("tiny-vit@")
    assert metrics["differences"]["all"]["ours-2 - theirs"]["identity"]["low"] is None, "a single object has no spread"
    table = (workspace / "artifacts" / "evaluate" / "table.md").read_text()
    assert table.startswith("# Evaluation on objects of DreamBooth") and "| theirs |" in table


def test_an_object_that_a_row_lacks_an_image_of_is_left_out_of_all_rows(
    recipe: Recipe, trained: Path, tmp_path: Path
) -> None:
    folder = dreambooth(tmp_path / "benchmark")
    write_questions(folder, *(f"a {name} in the snow" for name in SUBJECTS), *(f"a red {name}" for name in SUBJECTS))
    theirs = tmp_path / "theirs"
    save(theirs / "vase" / "p0.s0.png", np.zeros((8, 8, 3), np.uint8))
    chosen = on_dreambooth(recipe, folder, external={"theirs": str(theirs)})
    _, _, index = evaluated(build_workspace(tmp_path / "run", recipe, trained, [], []), chosen)
    assert index.keys == []
    detail = {failure.key: (failure.reason, failure.detail) for failure in index.failed}
    assert detail["vase"][0] == detail["teapot"][0] == "external_missing"
    assert f"row theirs: no {theirs / 'vase' / 'p1.s0'}.png" in detail["vase"][1]
    assert "the picture of 'a red vase'" in detail["vase"][1]


def test_references_whose_object_is_not_found_are_named(recipe: Recipe, trained: Path, tmp_path: Path) -> None:
    folder = dreambooth(tmp_path / "benchmark")
    refs = {
        "segmenter": tiny_models.ref_of(tiny_models.sam_folder(tmp_path / "sam"), "sam"),
        "detector": tiny_models.ref_of(tiny_models.detector_folder(tmp_path / "detector"), "grounding_dino"),
    }
    whole = recipe.model_copy(update={"models": recipe.models.model_copy(update=refs)})
    chosen = on_dreambooth(
        whole,
        folder,
        reference_masks=None,
        text_metric="clip_score",
        detection_threshold=1.0,
        phrases={"vase": "blue mug"},
    )
    _, _, index = evaluated(build_workspace(tmp_path / "run", recipe, trained, [], []), chosen)
    detail = {failure.key: (failure.reason, failure.detail) for failure in index.failed}
    assert detail["vase"][0] == "reference_not_found"
    assert "no blue mug in 00.png, 01.png; name it in evaluate.phrases.vase" in detail["vase"][1]
    assert "no teapot in" in detail["teapot"][1]


def test_objects_of_a_benchmark_are_chosen_by_seed(recipe: Recipe, tmp_path: Path) -> None:
    folder = dreambooth(tmp_path / "benchmark")
    everything = [
        key for spec in evaluate.plan(context_of(tmp_path, on_dreambooth(recipe, folder))) for key in spec.keys
    ]
    assert everything == sorted(SUBJECTS)
    some = evaluate.plan(context_of(tmp_path, on_dreambooth(recipe, folder, objects=2)))
    assert len(some) == 2 and {key for spec in some for key in spec.keys} < set(everything)


def test_the_recipe_of_dreambench_plus_asks_for_no_more_references_than_its_objects_have(tmp_path: Path) -> None:
    folder = dreambench_plus(tmp_path / "benchmark")
    settings = (f"benchmark_folder={folder / 'data'}", f"reference_masks={folder / 'masks'}", f"resolution={SIDE}")
    ctx = context_of(tmp_path, load_recipe("dreambench_plus", tuple(f"evaluate.{one}" for one in settings)))
    with ShardWriter(tmp_path / "work", "evaluate", "0" * 64, 0) as out:
        found = [subject for spec in evaluate.plan(ctx) for subject in benchmark_subjects(ctx, spec, out)]
    assert [(subject.id, len(subject.references)) for subject in found] == [("animal-00", 1), ("object-03", 1)]


def test_the_language_model_is_asked_when_there_is_no_file(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    question = {"question": "is it red?", "choices": ["yes", "no"], "answer": "yes"}
    asked: list[list[str]] = []

    def write(chat: str, prompts: list[str], seed: int) -> dict[str, Written]:
        asked.append(prompts)
        return {prompt: Written([question] * (2 if "red" in prompt else 1)) for prompt in prompts}

    monkeypatch.setattr(asking, "open_chat", lambda *given: "chat")
    monkeypatch.setattr(asking, "write_questions", write)
    chosen = on_dreambooth(recipe, tmp_path, questions=None)
    chosen = chosen.model_copy(update={"models": chosen.models.model_copy(update={"writer": recipe.models.clip})})
    ctx = context_of(tmp_path, chosen)
    subjects = [
        Subject(prompts_of(name, kinds)[1], (), (), "mug")
        for name, kinds in (("mug-a", ("background",)), ("mug-b", ("background", "property")))
    ]
    with ShardWriter(tmp_path / "work", "evaluate", "0" * 64, 0) as out:
        (found,) = with_questions(ctx, subjects, out)
        receipt = out.finish()
    assert asked == [["a red mug on the beach", "a blue mug"]], "each prompt once"
    assert found.id == "mug-a" and found.prompts[0].facts == [question] * 2
    assert [(failure.key, failure.reason) for failure in receipt.failed] == [("mug-b", "no_questions")]
    assert "'a blue mug': tiny-clip wrote too few usable questions" in receipt.failed[0].detail


def test_references_can_be_cut_around_the_object(recipe: Recipe, trained: Path, tmp_path: Path) -> None:
    folder = dreambooth(tmp_path / "benchmark")
    chosen = on_dreambooth(recipe, folder, text_metric="clip_score", questions=None, reference_cut="object")
    _, files, index = evaluated(build_workspace(tmp_path / "run", recipe, trained, [], []), chosen)
    assert "vase" in index.keys
    with Image.open(folder / "dataset" / "vase" / "00.png") as picture:
        around = picture.crop((12, 4, 36, 28)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(decode_png(files["vase"]["ref.0.png"]), np.asarray(around))
