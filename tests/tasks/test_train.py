import hashlib
import json
import logging
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import stage_runs
import tiny_flux
import torch
from diffusers import FluxControlPipeline, FluxTransformer2DModel
from generated_sets import random_set
from safetensors.torch import load_file
from tiny_dataset import write_dataset

from configs.load import load_recipe
from configs.schema import ModelRef, Recipe
from data.ids import digest_of
from data.images import encode_png
from data.pairs import PairsError
from data.shards import ShardError, ShardIndex, ShardWriter, sha256_file
from data.stage import StageContext
from models.header import FILE_NAME, read_metadata
from models.training import trainer
from models.training.checkpoints import newest_step
from models.training.folders import features_root
from models.training.record import CheckpointRecord
from models.training.trackers import TrackerError
from models.training.trainer import TrainingError
from models.training.trainer import train as train_loop
from tasks import train
from tasks.reporting.training import note

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    return tiny_flux.flux_ref(tmp_path_factory.mktemp("base"))


@pytest.fixture
def recipe(base: ModelRef) -> Recipe:
    whole = load_recipe("miniature")
    section = {"steps": 6, "batch": 2, "lora_rank": 2, "checkpoint_every": 2, "log_every": 2, "drop_text": 0.2}
    return whole.model_copy(
        update={
            "models": whole.models.model_copy(update={"customizer": base}),
            "train": whole.train.model_copy(update=section),
        }
    )


def workspace_with_dataset(folder: Path, recipe: Recipe) -> Path:
    sets = [random_set(f"mug-{number}", number, size=16, count=2 + number % 2) for number in range(4)]
    write_dataset(folder, sets, recipe)
    return folder


def context_of(workspace: Path, recipe: Recipe, store: str | None = None) -> StageContext:
    ctx = stage_runs.context("train", recipe, workspace, ("shard",))
    return replace(ctx, options={**ctx.options, "store": store})


@pytest.fixture
def trained(tmp_path: Path, recipe: Recipe) -> tuple[Path, ShardIndex]:
    workspace = workspace_with_dataset(tmp_path, recipe)
    return workspace / "artifacts" / "train", stage_runs.run_stage(train, context_of(workspace, recipe))


def test_publishes_a_checkpoint_that_names_its_dataset_recipe_and_base(
    trained: tuple[Path, ShardIndex], recipe: Recipe, base: ModelRef
) -> None:
    folder, index = trained
    record = CheckpointRecord.from_header(read_metadata(folder / FILE_NAME))
    assert record.dataset_sha256 == sha256_file(folder.parent / "shard" / "index.json")
    assert record.base_model == base
    assert (record.step, record.height, record.width, record.references) == (6, 16, 16, "separate")
    assert record.signature == index.signature
    assert index.summary["dataset_sha256"] == record.dataset_sha256
    assert index.summary["samples_seen"] == 12


def test_the_model_card_names_data_licence_and_run(trained: tuple[Path, ShardIndex], base: ModelRef) -> None:
    folder, index = trained
    text = (folder / "MODEL_CARD.md").read_text()
    assert index.summary["dataset_sha256"] in text and "| dataset | Tiny 0.1.0, 4 sets, 10 images, CC-BY-4.0 |" in text
    assert f"base_model: {base.name}" in text and "6 of batch 2 x 1" in text and "12 samples of 4 sets" in text
    # The base's licence and the dataset's, whose assets ask for credit.
    assert index.summary["licence"] == f"{base.licence} AND CC-BY-4.0" and f"**{index.summary['licence']}**" in text
    assert "belongs to the miniature" in text


def test_a_dataset_whose_card_was_changed_is_refused_before_any_training(tmp_path: Path, recipe: Recipe) -> None:
    workspace = workspace_with_dataset(tmp_path, recipe)
    card = workspace / "artifacts" / "shard" / "card.json"
    card.write_text(card.read_text().replace("CC-BY-4.0", "CC0-1.0  "))
    with pytest.raises(ShardError, match=r"card\.json: sha256"):
        train.plan(context_of(workspace, recipe))


def test_the_recipe_digest_follows_what_determines_the_weights_and_nothing_else(
    trained: tuple[Path, ShardIndex], recipe: Recipe
) -> None:
    workspace = trained[0].parents[1]

    def digest(other: Recipe) -> str:
        return train.checkpoint_record(context_of(workspace, other), "a" * 64, None, (16, 16)).recipe_sha256

    def with_train(**change: Any) -> Recipe:
        return recipe.model_copy(update={"train": recipe.train.model_copy(update=change)})

    assert digest(recipe.model_copy(update={"name": "other"})) == digest(recipe)
    assert digest(with_train(max_failed_fraction=0.7)) == digest(recipe)
    assert digest(with_train(pairs="elsewhere")) == digest(recipe), "pairs count by their digest"
    assert digest(with_train(lora_rank=3)) != digest(recipe)
    assert digest(recipe.model_copy(update={"seed": 1})) != digest(recipe)


def test_diffusers_loads_the_published_file(trained: tuple[Path, ShardIndex], base: ModelRef) -> None:
    transformer = FluxTransformer2DModel.from_pretrained(Path(base.source.removeprefix("folder:")) / "transformer")
    parts = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
    pipeline = FluxControlPipeline(transformer=transformer, **dict.fromkeys(parts))
    pipeline.load_lora_weights(trained[0])
    weights = [tensor for name, tensor in transformer.named_parameters() if "lora_B" in name]
    assert weights
    assert any(tensor.abs().max() > 0 for tensor in weights)


def test_metrics_ledger_and_live_files_tell_the_same_run(trained: tuple[Path, ShardIndex]) -> None:
    folder, _ = trained
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    ledger = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics] == [row["step"] for row in ledger] == list(range(6))
    shards = json.loads((folder.parent / "shard" / "index.json").read_text())["shards"]
    assert {digest for row in ledger for digest in row["shards"]} <= {shard["sha256"] for shard in shards}
    lines = (folder / "dvclive" / "plots" / "metrics" / "train" / "loss.tsv").read_text().splitlines()
    assert lines[0].split("\t") == ["step", "loss"]
    assert [int(line.split("\t")[0]) for line in lines[1:]] == [0, 2, 4, 5]
    assert float(lines[2].split("\t")[1]) == metrics[2]["loss"]
    assert json.loads((folder / "dvclive" / "metrics.json").read_text())["train"]["loss"] == metrics[-1]["loss"]
    assert not list(folder.rglob("dvc.yaml"))


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def run_and_kill(workspace: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, store: str | None = None) -> None:
    """The stage, stopped after its fifth step."""

    def killed(run: Any, on_step: Any) -> Any:
        def stop(row: dict[str, Any]) -> None:
            on_step(row)
            if row["step"] == 4:
                raise KeyboardInterrupt

        return train_loop(run, stop)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(trainer, "train", killed)
        stage_runs.run_stage(train, context_of(workspace, recipe, store))


@pytest.mark.parametrize("references", ["separate", "joint"])
def test_a_killed_and_resumed_run_publishes_the_same_bytes(
    tmp_path: Path, recipe: Recipe, references: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"references": references})})
    whole = workspace_with_dataset(tmp_path / "whole", recipe)
    stage_runs.run_stage(train, context_of(whole, recipe))
    cut = workspace_with_dataset(tmp_path / "cut", recipe)
    run_and_kill(cut, recipe, monkeypatch)
    torch.manual_seed(1234)
    stage_runs.run_stage(train, context_of(cut, recipe))
    assert digests(cut / "artifacts" / "train") == digests(whole / "artifacts" / "train")
    live = context_of(cut, recipe).work_dir / "live"
    assert digests(live) == digests(whole / "artifacts" / "train" / "dvclive"), "what was watched is what was published"


def test_a_run_killed_on_one_machine_goes_on_on_another_through_the_store(
    tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = workspace_with_dataset(tmp_path / "whole", recipe)
    stage_runs.run_stage(train, context_of(whole, recipe))
    url = (tmp_path / "store").as_uri()
    run_and_kill(workspace_with_dataset(tmp_path / "first", recipe), recipe, monkeypatch, url)
    second, steps = workspace_with_dataset(tmp_path / "second", recipe), []

    def watched(run: Any, on_step: Any) -> Any:
        steps.append(newest_step(run.folder))
        return train_loop(run, on_step)

    monkeypatch.setattr(trainer, "train", watched)
    stage_runs.run_stage(train, context_of(second, recipe, url))
    assert steps == [4]
    assert digests(second / "artifacts" / "train") == digests(whole / "artifacts" / "train")


def pairs_of(folder: Path) -> Path:
    """Two tars of pairs with two bad samples."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        with ShardWriter(folder / name, "web", "s", 0) as out:
            for number in range(3):
                picture = encode_png(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8))
                out.add(f"{name}{number}", {"caption": "a mug on the beach"}, {"png": picture})
            out.add(f"{name}3", {"caption": "a mug"}, {"png": b"none"})
            out.finish()
    return folder


@pytest.fixture
def mixed(recipe: Recipe, tmp_path: Path) -> Recipe:
    changes = {"pairs": str(pairs_of(tmp_path / "web")), "pairs_share": 0.5, "reference_crops": 2}
    return recipe.model_copy(update={"train": recipe.train.model_copy(update=changes)})


def test_a_run_with_pairs_and_crops_says_what_it_took_and_what_it_skipped(tmp_path: Path, mixed: Recipe) -> None:
    workspace = workspace_with_dataset(tmp_path / "work", mixed)
    index = stage_runs.run_stage(train, context_of(workspace, mixed))
    summary = index.summary
    assert (summary["pairs"], summary["pairs_seen"], summary["samples_seen"]) == (6, 6, 12)
    assert summary["pairs_skipped"] == {"unreadable": 2}
    folder = workspace / "artifacts" / "train"
    tars = json.loads((folder / "pairs.json").read_text())["tars"]
    assert [(tar["name"], tar["pairs"], tar["skipped"]) for tar in tars] == [
        ("a/000000.tar", 3, {"unreadable": 1}), ("b/000000.tar", 3, {"unreadable": 1})
    ]  # fmt: skip
    assert [tar["sha256"] for tar in tars] == [sha256_file(tmp_path / "web" / tar["name"]) for tar in tars]
    record = CheckpointRecord.from_header(read_metadata(folder / FILE_NAME))
    assert record.pairs_sha256 == digest_of([tar["sha256"] for tar in tars])
    rows = [row for line in (folder / "ledger.jsonl").read_text().splitlines() for row in json.loads(line)["samples"]]
    assert {(row["tar"], row["pair"]) for row in rows if "pair" in row} == {
        (tar["sha256"], f"{tar['name'][0]}{number}") for tar in tars for number in range(3)
    }
    assert any(row.get("crops") for row in rows)
    assert "6 of the samples text-image pairs out of 6 (2 skipped)" in note(context_of(workspace, mixed), index)


def test_another_learning_rate_encodes_nothing_and_other_crops_do(
    tmp_path: Path, mixed: Recipe, caplog: pytest.LogCaptureFixture
) -> None:
    workspace = workspace_with_dataset(tmp_path / "work", mixed)

    def made(signature: str, **change: Any) -> tuple[dict[str, str], dict[str, str], list[str]]:
        """What was published, what features there are then, and what was said of them."""
        recipe = mixed.model_copy(update={"train": mixed.train.model_copy(update=change)})
        caplog.clear()
        with caplog.at_level(logging.INFO):
            stage_runs.run_stage(train, replace(context_of(workspace, recipe), signature=signature * 64))
        said = [message for message in caplog.messages if "features of" in message]
        return digests(workspace / "artifacts" / "train"), digests(features_root(workspace)), said

    first, features, said = made("1")
    assert any("/pairs/" in name for name in features)
    size = sum(path.stat().st_size for path in features_root(workspace).rglob("*.safetensors")) / 1e6
    assert said[0].startswith("train: features of 2 shards encoded in ")
    assert f" s, those of 0 were there; {size:.1f} MB in {features_root(workspace)}" in said[0]
    other, kept, said = made("2", learning_rate=0.5, steps=4, lora_rank=4)
    assert other != first and kept == features
    assert said[0].startswith("train: features of 0 shards encoded in ") and "those of 2 were there" in said[0]
    _, more, _ = made("3", reference_crops=3)
    assert more.items() > features.items() and len({name.split("/")[0] for name in more}) == 2


def test_a_killed_run_with_pairs_publishes_the_same_bytes(
    tmp_path: Path, mixed: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = workspace_with_dataset(tmp_path / "whole", mixed)
    stage_runs.run_stage(train, context_of(whole, mixed))
    cut = workspace_with_dataset(tmp_path / "cut", mixed)
    run_and_kill(cut, mixed, monkeypatch)
    stage_runs.run_stage(train, context_of(cut, mixed))
    assert digests(cut / "artifacts" / "train") == digests(whole / "artifacts" / "train")


def test_two_processes_that_were_killed_go_on_and_publish_what_one_process_does(
    tmp_path: Path, recipe: Recipe, caplog: pytest.LogCaptureFixture
) -> None:
    """Real worker processes: one is killed after the first checkpoint, then the stage is run again."""
    alone = workspace_with_dataset(tmp_path / "alone", recipe)
    stage_runs.run_stage(train, context_of(alone, recipe))
    shared = recipe.model_copy(update={"train": recipe.train.model_copy(update={"processes": 2})})
    two = workspace_with_dataset(tmp_path / "two", shared)
    ctx = context_of(two, shared)
    killer = threading.Thread(target=kill_second_worker, args=(ctx.work_dir,), daemon=True)
    killer.start()
    with pytest.raises(TrainingError, match="process 1 of the training died: SIGKILL"):
        stage_runs.run_stage(train, ctx)
    killer.join()
    before = newest_step(ctx.work_dir / "checkpoints")
    assert 0 < before < shared.train.steps
    with caplog.at_level(logging.INFO):
        stage_runs.run_stage(train, ctx)
    assert any(message.startswith("train: step 6/6, loss") for message in caplog.messages)
    folders = [workspace / "artifacts" / "train" for workspace in (alone, two)]
    assert (folders[0] / "ledger.jsonl").read_bytes() == (folders[1] / "ledger.jsonl").read_bytes()
    one, other = ([json.loads(line)["loss"] for line in (own / "metrics.jsonl").open()] for own in folders)
    assert one == pytest.approx(other, rel=1e-3)
    one, other = (load_file(own / FILE_NAME) for own in folders)
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=0.05, atol=1e-3)
    assert digests(ctx.work_dir / "live") == digests(folders[1] / "dvclive")


def kill_second_worker(work_dir: Path) -> None:
    """After the first checkpoint."""
    while newest_step(work_dir / "checkpoints") == 0:
        time.sleep(0.01)
    for child in psutil.Process().children():
        if child.environ().get("RANK") == "1":
            child.kill()


def test_a_tracker_that_cannot_be_used_is_refused_before_anything_is_computed(tmp_path: Path, recipe: Recipe) -> None:
    ctx = replace(context_of(workspace_with_dataset(tmp_path, recipe), recipe), options={"trackers": ("abacus",)})
    with pytest.raises(TrackerError, match="runtime trackers names 'abacus'; allowed: "):
        stage_runs.run_stage(train, ctx)
    assert not features_root(tmp_path).exists()


def test_checkpointing_and_what_is_kept_change_no_byte(tmp_path: Path, recipe: Recipe) -> None:
    found = []
    for name, options in (("plain", {}), ("other", {"gradient_checkpointing": True, "keep_checkpoints": 1})):
        workspace = workspace_with_dataset(tmp_path / name, recipe)
        stage_runs.run_stage(train, replace(context_of(workspace, recipe), options=options))
        found.append(digests(workspace / "artifacts" / "train"))
    assert found[0] == found[1]


def test_an_empty_dataset_is_refused_with_the_fix(tmp_path: Path, recipe: Recipe) -> None:
    stage_runs.write_input(tmp_path, "shard", [], recipe)
    with pytest.raises(ValueError, match="holds no set to train on; lower select"):
        train.plan(context_of(tmp_path, recipe))


def test_pairs_that_are_no_tars_are_refused_before_any_model_is_loaded(tmp_path: Path, mixed: Recipe) -> None:
    (tmp_path / "empty").mkdir()
    section = mixed.train.model_copy(update={"pairs": str(tmp_path / "empty")})
    workspace = workspace_with_dataset(tmp_path / "work", mixed)
    with pytest.raises(PairsError, match=r"empty: holds no \.tar"):
        train.plan(context_of(workspace, mixed.model_copy(update={"train": section})))


def test_training_leaves_git_and_dvc_alone(tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Live itself would make a DVC repository in a git repository that has none."""
    import subprocess

    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    monkeypatch.chdir(tmp_path)
    workspace = workspace_with_dataset(tmp_path, recipe)
    stage_runs.run_stage(train, context_of(workspace, recipe))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".git", "artifacts"]
