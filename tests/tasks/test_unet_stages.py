"""Train, evaluate and sample with a U-Net: the same stages, with object masks and a checkpoint of two halves."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stage_runs
import tiny_models
import tiny_unet
import torch
from diffusers import UNet2DConditionModel
from generated_sets import random_set
from tiny_dataset import write_dataset

from configs.load import load_recipe
from configs.schema import Recipe
from configs.training import NoisedReferences
from data.images import encode_png
from data.shards import ShardWriter, load_index, sha256_file
from models.header import FILE_NAME, read_metadata
from models.training import trainer
from models.training.record import CheckpointRecord
from models.training.restore import restore
from models.training.trainer import train as train_loop
from tasks import train
from tasks.auditing.draws import check_draws
from tasks.reporting.training import note
from tasks.sample import CustomizationPipeline

torch.set_num_threads(1)
SIDE = 16


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    root = tmp_path_factory.mktemp("models")
    whole = load_recipe("miniature")
    refs = {
        "customizer": tiny_unet.unet_ref(root / "unet"),
        "segmenter": tiny_models.ref_of(tiny_models.segmenter_folder(root / "segmenter"), "segformer"),
    }
    section = {
        "steps": 5,
        "batch": 2,
        "lora_rank": 2,
        "lora_targets": "self_attention",
        "references": "noised",
        "noised": NoisedReferences(mask_dilation=3),
        "checkpoint_every": 2,
        "log_every": 2,
        "dtype": "float32",
    }
    return whole.model_copy(
        update={
            "models": whole.models.model_copy(update=refs),
            "train": whole.train.model_copy(update=section),
        }
    )


def trained(folder: Path, recipe: Recipe) -> Path:
    sets = [random_set(f"mug-{number}", number, size=SIDE, count=2 + number % 2) for number in range(4)]
    write_dataset(folder, sets, recipe)
    stage_runs.run_stage(train, stage_runs.context("train", recipe, folder, ("shard",)))
    return folder / "artifacts" / "train"


@pytest.fixture(scope="module")
def checkpoint(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("trained"), recipe)


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_killed_and_resumed_run_publishes_the_same_bytes(
    checkpoint: Path, tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(run: Any, on_step: Any) -> Any:
        def stop(row: dict[str, Any]) -> None:
            on_step(row)
            if row["step"] == 3:
                raise KeyboardInterrupt

        return train_loop(run, stop)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(trainer, "train", killed)
        trained(tmp_path, recipe)
    torch.manual_seed(1234)
    stage_runs.run_stage(train, stage_runs.context("train", recipe, tmp_path, ("shard",)))
    assert digests(tmp_path / "artifacts" / "train") == digests(checkpoint)


def test_the_checkpoint_says_how_references_entered_and_is_restored_so(checkpoint: Path, recipe: Recipe) -> None:
    header = read_metadata(checkpoint / FILE_NAME)
    record = CheckpointRecord.from_header(header)
    assert (record.references, record.noised) == ("noised", NoisedReferences(mask_dilation=3))
    assert record.dataset_sha256 == sha256_file(checkpoint.parent / "shard" / "index.json")
    customizer, same = restore(checkpoint, "cpu")
    assert same == record
    assert customizer.references == NoisedReferences(mask_dilation=3)
    folder = Path(recipe.models.customizer.source.removeprefix("folder:"))
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    unet.load_lora_adapter(checkpoint, prefix="unet", weight_name=FILE_NAME)
    weights = [tensor for name, tensor in unet.named_parameters() if "lora_B" in name]
    assert any(tensor.abs().max() > 0 for tensor in weights)


def test_masks_are_found_by_the_segmenter_where_none_are_given(
    checkpoint: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = tiny_unet.picture(1)
    mask = np.zeros((SIDE, SIDE), bool)
    mask[2:14, 3:12] = True
    pipeline = CustomizationPipeline.from_checkpoint(checkpoint, segmenter=recipe.models.segmenter)
    monkeypatch.setattr(pipeline.segmenter, "masks", lambda images: [mask for _ in images])
    found = pipeline(
        "a red mug", [picture], num_inference_steps=2, guidance={"image_scale": 2.0, "image_scale_rise": 1.0}
    )
    assert found.provenance[0]["masks_sha256"] == [hashlib.sha256(mask.tobytes()).hexdigest()]
    monkeypatch.setattr(pipeline.segmenter, "masks", lambda images: [~mask for _ in images])
    other = pipeline(
        "a red mug", [picture], num_inference_steps=2, guidance={"image_scale": 2.0, "image_scale_rise": 1.0}
    )
    assert not np.array_equal(np.asarray(found.images[0]), np.asarray(other.images[0])), "the mask matters"
    monkeypatch.setattr(pipeline.segmenter, "masks", lambda images: [mask & ~mask for _ in images])
    with pytest.raises(ValueError, match="reference 1: the segmenter finds no object; give its mask"):
        pipeline("a red mug", [picture])
    assert len(pipeline("a red mug", num_inference_steps=2).images) == 1, "no reference needs no mask"
    alone = CustomizationPipeline.from_checkpoint(checkpoint)
    with pytest.raises(ValueError, match="looks at the object of a reference alone: give masks, or name a segmenter"):
        alone("a red mug", [picture])
    assert len(alone("a red mug", [picture], [mask], num_inference_steps=2).images) == 1


def test_pairs_need_no_mask_and_crops_carry_theirs(tmp_path: Path, recipe: Recipe) -> None:
    rng = np.random.default_rng(0)
    with ShardWriter(tmp_path / "web", "web", "s", 0) as out:
        for number in range(3):
            picture = encode_png(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
            out.add(f"pair{number}", {"caption": "a mug on the beach"}, {"png": picture})
        out.finish()
    changes = {"pairs": str(tmp_path / "web"), "pairs_share": 0.5, "reference_crops": 2}
    mixed = recipe.model_copy(update={"train": recipe.train.model_copy(update=changes)})
    folder = trained(tmp_path / "work", mixed)
    rows = [row for line in (folder / "ledger.jsonl").read_text().splitlines() for row in json.loads(line)["samples"]]
    assert sum("pair" in row for row in rows) == 5
    assert any(row.get("crops") for row in rows)
    record = CheckpointRecord.from_header(read_metadata(folder / FILE_NAME))
    assert record.pairs_sha256 is not None
    assert restore(folder, "cpu")[1] == record


def test_a_set_with_a_prompt_that_is_too_long_is_trained_on_without_that_image(
    tmp_path: Path, recipe: Recipe, caplog: pytest.LogCaptureFixture
) -> None:
    """The tokenizer's limit is 12 tokens. Said in the log, in what is published, and known to the audit."""
    sets = [random_set(f"mug-{number}", number, size=SIDE, count=3) for number in range(3)]
    key, record, files = sets[1]
    images = list(record.samples)
    images[2] = images[2].model_copy(update={"prompt": "a red mug on the beach " * 3})
    sets[1] = (key, record.model_copy(update={"samples": images}), files)
    write_dataset(tmp_path, sets, recipe)
    ctx = stage_runs.context("train", recipe, tmp_path, ("shard",))
    index = stage_runs.run_stage(train, ctx)
    folder = tmp_path / "artifacts" / "train"
    assert index.summary["images_skipped"] == {"long_prompt": 1}
    (listed,) = json.loads((folder / "skipped.json").read_text())["images"]
    assert (listed["key"], listed["reason"]) == ("mug-1-s0-2", "long_prompt")
    assert listed["detail"].startswith("prompt has 19 tokens; allowed: 12: 'a red mug on the beach a red mug")
    (line,) = [own.getMessage() for own in caplog.records if "skipped" in own.getMessage()]
    assert "train: 1 of 9 images of the dataset skipped: 1 long_prompt; the first is mug-1-s0-2 (long_prompt:" in line
    assert ", images skipped: 1 long_prompt, listed in skipped.json" in (folder / "MODEL_CARD.md").read_text()
    assert "3 sets were consumed, images skipped: 1 long_prompt." in note(ctx, index)
    ledger = [json.loads(row) for row in (folder / "ledger.jsonl").read_text().splitlines()]
    assert "mug-1-s0-2" not in json.dumps(ledger)
    published = load_index(tmp_path / "artifacts" / "shard")
    kept = {key: [own.sample_id for own in record.samples] for key, record, _ in sets}
    of = (published, kept, recipe.train, recipe.seed)
    assert list(check_draws(ledger, *of, skipped={"mug-1-s0-2"})) == []
    assert list(check_draws(ledger, *of)) != []
    every = {name for names in kept.values() for name in names}
    (problem,) = check_draws(ledger, *of, skipped=every)
    assert problem == "ledger: step 0: a set was trained on, and skipped.json lists every image"


def test_nothing_is_said_of_skipped_images_where_there_are_none(checkpoint: Path) -> None:
    assert not (checkpoint / "skipped.json").exists()
    assert "skipped" not in (checkpoint / "MODEL_CARD.md").read_text() + (checkpoint / "index.json").read_text()


def test_features_of_training_carry_the_masks_of_the_shards(checkpoint: Path, recipe: Recipe) -> None:
    from data.reader import decode_set
    from data.shards import read_all
    from models.masks import token_masks
    from models.training.features import FeatureStore
    from models.training.folders import features_folder

    dataset = checkpoint.parent / "shard"
    sha256 = sha256_file(dataset / "index.json")
    folder = features_folder(checkpoint.parents[1], recipe.models.customizer, recipe.train, recipe.seed, sha256)
    store = FeatureStore(folder, load_index(dataset), recipe.train, recipe.seed)
    for sample in read_all(dataset, load_index(dataset)):
        for image in decode_set(sample).images:
            for flipped in (False, True):
                mask = np.ascontiguousarray(image.mask[:, ::-1]) if flipped else image.mask
                expected = token_masks(torch.from_numpy(mask)[None], SIDE // 2, SIDE // 2, 1).view(SIDE // 2, -1)
                assert torch.equal(store.image(sample.key, image.sample_id, flipped)["mask"], expected)
