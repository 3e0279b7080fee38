"""A checkpoint alone on a benchmark: the evaluate stage's own images and numbers, without a pipeline around it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from benchmark_folders import dreambooth, on_dreambooth
from evaluation_runs import build_workspace, evaluated, small_recipe, train_small

from configs.errors import ConfigError
from configs.load import load_resolved
from configs.schema import Recipe, Runtime
from data.shards import load_index, sha256_file
from flows.checkpoint import evaluate_checkpoint
from flows.engine import StageResult
from flows.runners import serial
from flows.worker import StageError
from models.evaluation.record import EvaluationRecord
from models.header import FILE_NAME

RUNTIME = Runtime(threads_per_worker=1, min_free_disk_gb=0.0, device="cpu")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    root = tmp_path_factory.mktemp("benchmark")
    whole = small_recipe(root)
    changes: dict[str, Any] = {"text_metric": "clip_score", "questions": None, "max_failed_fraction": 0.5}
    return on_dreambooth(whole, dreambooth(root), metrics=("clip_i",), **changes)


@pytest.fixture(scope="module")
def trained(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_small(tmp_path_factory.mktemp("trained"), recipe)


@pytest.fixture(scope="module")
def checkpoint(trained: Path) -> Path:
    return trained / "artifacts" / "train" / FILE_NAME


def run(file: Path, recipe: Recipe, folder: Path) -> StageResult:
    return evaluate_checkpoint(file, recipe, folder, RUNTIME, runner=serial)


def changed(recipe: Recipe, section: str, **more: Any) -> Recipe:
    return recipe.model_copy(update={section: getattr(recipe, section).model_copy(update=more)})


def test_it_gives_the_stages_own_table_and_says_what_was_evaluated(
    recipe: Recipe, trained: Path, checkpoint: Path, tmp_path: Path
) -> None:
    result = run(checkpoint, recipe, tmp_path / "alone")
    assert (result.keys, result.failed, result.reused) == (2, {"too_few_references": 1}, 0)
    build_workspace(tmp_path / "pipeline", recipe, trained, [], [])
    evaluated(tmp_path / "pipeline", recipe)
    alone, pipeline = (tmp_path / name / "artifacts" / "evaluate" for name in ("alone", "pipeline"))
    for name in ("table.md", "table.csv", "images.parquet", "guidance.csv", "metrics.json"):
        assert (alone / name).read_bytes() == (pipeline / name).read_bytes(), name
    said = json.loads((alone / "evaluated.json").read_bytes())
    assert said["checkpoint"]["sha256"] == sha256_file(checkpoint)
    assert said["checkpoint"]["base_model"] == recipe.models.customizer.model_dump(mode="json")
    assert said["recipe"]["evaluate"] == recipe.evaluate.model_dump(mode="json")
    assert "evaluated.json" in {file.name for file in load_index(alone).files}
    assert load_resolved(tmp_path / "alone" / "configs" / "recipe.yaml").evaluate == recipe.evaluate
    inputs = yaml.safe_load((tmp_path / "alone" / "configs" / "inputs.yaml").read_text())
    assert set(inputs["evaluate"]) == {"benchmark_folder", "reference_masks"}


def test_finished_objects_are_kept_unless_what_is_evaluated_changes(
    recipe: Recipe, checkpoint: Path, tmp_path: Path
) -> None:
    first = run(checkpoint, recipe, tmp_path)
    receipts = sorted((tmp_path / "artifacts" / ".work" / "evaluate" / first.signature[:16]).glob("0*.json"))
    receipts[-1].unlink()
    assert run(checkpoint, recipe, tmp_path).reused == first.shards - 1
    assert run(checkpoint, changed(recipe, "evaluate", steps=3), tmp_path).signature != first.signature
    other = tmp_path / "other.safetensors"
    data = bytearray(checkpoint.read_bytes())
    data[-1] ^= 1
    other.write_bytes(data)
    assert run(other, recipe, tmp_path).signature != first.signature


def test_too_many_failures_end_with_what_helps_a_checkpoint_alone(
    recipe: Recipe, checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(StageError, match=r"1 of 3 keys failed .*; accept them with --set evaluate\.max_failed_f"):
        run(checkpoint, changed(recipe, "evaluate", max_failed_fraction=0.1, rows=("copy",)), tmp_path)


def test_records_carry_the_digest_of_the_checkpoint(recipe: Recipe, checkpoint: Path, tmp_path: Path) -> None:
    from data.shards import read_all

    run(checkpoint, changed(recipe, "evaluate", rows=("ours",), objects=1), tmp_path)
    folder = tmp_path / "artifacts" / "evaluate"
    (sample,) = read_all(folder, load_index(folder))
    record = EvaluationRecord.model_validate(sample.record)
    assert record.checkpoint["sha256"] == sha256_file(checkpoint)
    assert {image.row for image in record.images} == {"ours-2"}


def test_what_cannot_be_evaluated_alone_is_refused_with_the_fix(
    recipe: Recipe, checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"held_out, whose objects .* --recipe dreambooth"):
        run(checkpoint, changed(recipe, "evaluate", benchmark="held_out"), tmp_path)
    with pytest.raises(ConfigError, match="no such checkpoint; --checkpoint names a LoRA file"):
        run(tmp_path / "none.safetensors", recipe, tmp_path)
    junk = tmp_path / "junk.safetensors"
    junk.write_bytes(np.random.default_rng(0).bytes(64))
    with pytest.raises(ConfigError, match="its header does not describe a SynCD checkpoint"):
        run(junk, recipe, tmp_path)
    other = recipe.models.customizer.model_copy(update={"revision": "f" * 64})
    with pytest.raises(ConfigError, match=r"trained from tiny-flux@.*: take a recipe of that base model"):
        run(checkpoint, changed(recipe, "models", customizer=other), tmp_path)
    (tmp_path / "dvc.yaml").touch()
    with pytest.raises(ConfigError, match="is a workspace of the pipeline; name another folder with --workspace"):
        run(checkpoint, recipe, tmp_path)
