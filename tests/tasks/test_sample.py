import shutil
from pathlib import Path

import numpy as np
import pytest
import stage_runs
import tiny_flux
import torch
from generated_sets import random_set
from PIL import Image
from safetensors.torch import save_file

from configs.load import load_recipe
from configs.schema import Recipe
from data.shards import ShardError, sha256_file
from tasks import train
from tasks.sample import CustomizationPipeline, prepare_reference, read_provenance, sample

SIDE = 16


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    torch.set_num_threads(1)
    whole = load_recipe("miniature", ("train.steps=3", "train.batch=2", "train.lora_rank=4", "train.learning_rate=0.5"))
    base = tiny_flux.flux_ref(tmp_path_factory.mktemp("base") / "flux")
    return whole.model_copy(update={"models": whole.models.model_copy(update={"customizer": base})})


@pytest.fixture(scope="module")
def checkpoint(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = tmp_path_factory.mktemp("trained")
    stage_runs.write_input(workspace, "shard", [random_set(f"mug-{n}", n, size=SIDE) for n in range(2)], recipe)
    stage_runs.run_stage(train, stage_runs.context("train", recipe, workspace, ("shard",)))
    return workspace / "artifacts" / "train"


def picture(seed: int, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_is_called_like_a_pipeline_and_depends_on_references_seed_and_prompt(checkpoint: Path) -> None:
    pipeline = CustomizationPipeline.from_checkpoint(checkpoint)

    def image(prompt: str = "a red mug", references: tuple = (picture(1),), **more: object) -> np.ndarray:
        (made,) = pipeline(prompt=prompt, references=references, num_inference_steps=2, **more).images
        return np.asarray(made)

    assert image().shape == (SIDE, SIDE, 3)
    np.testing.assert_array_equal(image(), image())
    for other in (
        image(seed=1),
        image(prompt="a blue mug on the beach"),
        image(references=(picture(2),)),
        image(references=(picture(1), picture(2))),
        image(references=()),
        image(guidance={"form": "plain", "image_scale": 4.0}),
    ):
        assert not np.array_equal(image(), other)
    assert image(height=24, width=8).shape == (24, 8, 3)
    several = pipeline(["a mug", "a red mug"], [picture(1)], num_images_per_prompt=2, num_inference_steps=2, seed=5)
    assert [item["seed"] for item in several.provenance] == [5, 6, 5, 6]
    assert len(several.images) == 4


def test_saves_images_that_say_what_they_were_made_from(checkpoint: Path, recipe: Recipe, tmp_path: Path) -> None:
    reference = tmp_path / "mug.png"
    Image.fromarray(picture(1, 40, 60)).save(reference)
    paths = sample(
        [reference], "a red mug", checkpoint, tmp_path / "out" / "mug.png", seed=3, count=2, num_inference_steps=2
    )
    assert [path.name for path in paths] == ["mug-1.png", "mug-2.png"]
    told = read_provenance(paths[1])
    assert (told["prompt"], told["seed"], told["settings"]["steps"]) == ("a red mug", 4, 2)
    assert told["checkpoint_sha256"] == sha256_file(checkpoint / "pytorch_lora_weights.safetensors")
    assert told["dataset_sha256"] == sha256_file(checkpoint.parent / "shard" / "index.json")
    assert told["base_model"] == f"{recipe.models.customizer.name}@{recipe.models.customizer.revision}"
    assert len(told["references_sha256"]) == 1
    (again,) = sample([reference], "a red mug", checkpoint, tmp_path / "again.png", seed=4, num_inference_steps=2)
    assert np.abs(np.asarray(Image.open(again)).astype(int) - np.asarray(Image.open(paths[1]))).max() <= 1
    Image.fromarray(picture(1)).save(tmp_path / "plain.png")
    with pytest.raises(ValueError, match="carries no syncd metadata"):
        read_provenance(tmp_path / "plain.png")


def test_references_are_cut_to_the_middle_or_to_the_object() -> None:
    wide = np.zeros((40, 100, 3), dtype=np.uint8)
    wide[:, 30:70] = (255, 0, 0)
    np.testing.assert_array_equal(prepare_reference(wide, None, 8, 8)[0], np.full((8, 8, 3), (255, 0, 0)))
    mask = np.zeros((40, 100), dtype=bool)
    mask[10:30, 80:90] = True
    wide[mask] = (0, 255, 0)
    cut, cut_mask = prepare_reference(wide, mask, 30, 30)
    side = 30
    assert (cut[5:25, 15] == (0, 255, 0)).all(), "the object's longer side and a quarter of it on both sides"
    assert (cut[0] == 0).all() and (cut[-1] == 0).all()
    np.testing.assert_array_equal(cut_mask, (cut == (0, 255, 0)).all(axis=2))
    edge = np.zeros((40, 100), dtype=bool)
    edge[0:4, 96:100] = True
    assert prepare_reference(wide, edge, side, side)[0].shape == (side, side, 3)


@pytest.mark.parametrize(
    ("reference", "mask", "message"),
    [
        (picture(1), np.zeros((SIDE, SIDE), bool), "mask is empty"),
        (picture(1), np.ones((4, 4), bool), "mask is 4 x 4, its reference 16 x 16"),
        (picture(1).astype(np.float32), None, "picture is float32"),
    ],
)
def test_references_that_cannot_be_used_are_errors(reference: np.ndarray, mask: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prepare_reference(reference, mask, 8, 8)


def test_unreadable_and_missing_files_are_named(tmp_path: Path, checkpoint: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"broken\.png: not a picture"):
        prepare_reference(broken, None, 8, 8)
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        prepare_reference(tmp_path / "none.png", None, 8, 8)
    pipeline = CustomizationPipeline.from_checkpoint(checkpoint)
    with pytest.raises(ValueError, match="1 masks for 2 references"):
        pipeline("a mug", [picture(1), picture(2)], [np.ones((SIDE, SIDE), bool)])


def test_a_checkpoint_must_be_the_published_one(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such checkpoint; train one first"):
        CustomizationPipeline.from_checkpoint(tmp_path)
    copy = tmp_path / "train"
    shutil.copytree(checkpoint, copy)
    file = copy / "pytorch_lora_weights.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(ShardError, match=r"not the weights that .* vouches for"):
        CustomizationPipeline.from_checkpoint(copy)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(1)}, foreign)
    with pytest.raises(ValueError, match="does not describe a SynCD checkpoint"):
        CustomizationPipeline.from_checkpoint(foreign)
    assert CustomizationPipeline.from_checkpoint(checkpoint / file.name).record.step == 3
