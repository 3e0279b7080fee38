import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_checkpoint import SIDE, recipe_of, train_in

from configs.schema import Recipe
from data.pictures import prepare_reference
from data.release.marking import TRAINED_ALGORITHMIC_MEDIA, source_type
from data.shards import ShardError, sha256_file
from models import memory
from models.guidance import Step
from models.scorers.grounded import GroundedSegmenter
from tasks.sample import CustomizationPipeline, read_provenance, sample


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return recipe_of(tmp_path_factory.mktemp("base") / "flux")


@pytest.fixture(scope="module")
def checkpoint(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_in(tmp_path_factory.mktemp("trained"), recipe)


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
    assert {source_type(path.read_bytes()) for path in paths} == {TRAINED_ALGORITHMIC_MEDIA}
    assert (told["prompt"], told["seed"], told["settings"]["steps"]) == ("a red mug", 4, 2)
    assert told["checkpoint_sha256"] == sha256_file(checkpoint / "pytorch_lora_weights.safetensors")
    assert told["dataset_sha256"] == sha256_file(checkpoint.parent / "shard" / "index.json")
    assert told["base_model"] == f"{recipe.models.customizer.name}@{recipe.models.customizer.revision}"
    assert len(told["references_sha256"]) == 1
    assert told["reference_files_sha256"] == [sha256_file(reference)] and "mask_files_sha256" not in told
    assert (told["references_cut"], told["dtype"]) == ("middle", "float32")
    assert told["guidance_norms"][0][0] == 1.0
    assert all(image > 0 and text > 0 for _, image, text in told["guidance_norms"])
    assert len(told["guidance_norms"]) == 2
    (again,) = sample([reference], "a red mug", checkpoint, tmp_path / "again.png", seed=4, num_inference_steps=2)
    assert np.abs(np.asarray(Image.open(again)).astype(int) - np.asarray(Image.open(paths[1]))).max() <= 1
    Image.fromarray(picture(1)).save(tmp_path / "plain.png")
    with pytest.raises(ValueError, match="carries no syncd metadata"):
        read_provenance(tmp_path / "plain.png")


def test_a_segmenter_cuts_references_as_masks_do_and_the_picture_says_which(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = tiny_models.ref_of(tiny_models.segmenter_folder(tmp_path / "segmenter"), "segformer")
    pipeline = CustomizationPipeline.from_checkpoint(checkpoint, segmenter=segmenter)
    shown, mask = picture(1, 40, 60), np.zeros((40, 60), bool)
    mask[4:14, 2:12] = True
    monkeypatch.setattr(pipeline.segmenter, "masks", lambda images: [mask for _ in images])
    found = pipeline("a mug", [shown], segment="mug", num_inference_steps=2)
    given = pipeline("a mug", [shown], [mask], num_inference_steps=2)
    alone = CustomizationPipeline.from_checkpoint(checkpoint)
    middle = alone("a mug", [shown], num_inference_steps=2)
    told = [made.provenance[0] for made in (found, given, middle)]
    assert [own["references_cut"] for own in told] == ["segmenter", "mask", "middle"]
    assert told[0]["references_sha256"] == told[1]["references_sha256"] != told[2]["references_sha256"]
    np.testing.assert_array_equal(np.asarray(found.images[0]), np.asarray(given.images[0]))
    assert told[0]["masks_sha256"] == told[1]["masks_sha256"] and "masks_sha256" not in told[2]
    assert (told[0]["segment"], told[0]["segmenter"]) == ("mug", f"{segmenter.name}@{segmenter.revision}")
    unasked = pipeline("a mug", [shown], num_inference_steps=2).provenance[0]
    assert {**unasked, "segment": "mug"} == told[0]
    with pytest.raises(ValueError, match="masks and segment='mug' are both given; give one of them"):
        pipeline("a mug", [shown], [mask], segment="mug")
    with pytest.raises(ValueError, match="you ask to look at the object of a reference alone: give masks, or name a"):
        alone("a mug", [shown], segment="mug")


def test_a_segmenter_that_finds_objects_by_name_is_told_the_name(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = CustomizationPipeline.from_checkpoint(checkpoint)
    asked: list[list[str]] = []

    def masks(self: GroundedSegmenter, images: list[np.ndarray], phrases: list[str]) -> list[np.ndarray]:
        asked.append(phrases)
        return [np.ones(image.shape[:2], bool) for image in images]

    monkeypatch.setattr(GroundedSegmenter, "masks", masks)
    pipeline.segmenter = GroundedSegmenter(None, None, 0.25)
    pipeline("a mug", [picture(1), picture(2, 20, 30)], segment="striped mug", num_inference_steps=2)
    assert asked == [["striped mug", "striped mug"]]
    monkeypatch.setattr(type(pipeline.customizer), "needs_masks", True)
    with pytest.raises(ValueError, match="the segmenter finds objects by name: say what the references show"):
        pipeline("a mug", [picture(1)])


def test_progress_is_told_every_step(checkpoint: Path) -> None:
    seen: list[Step] = []
    CustomizationPipeline.from_checkpoint(checkpoint)(
        "a mug", [picture(1)], num_inference_steps=3, num_images_per_prompt=2, progress=seen.append
    )
    assert [(step.number, step.count) for step in seen] == [(0, 3), (1, 3), (2, 3)]


def test_running_out_of_memory_is_an_error_that_says_what_to_change(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = CustomizationPipeline.from_checkpoint(checkpoint)

    def fail(error: Exception) -> None:
        def raising(*_: object) -> None:
            raise error

        monkeypatch.setattr(pipeline.customizer, "sample", raising)

    with pytest.raises(RuntimeError) as found:
        torch.empty(2**60)
    for error in (torch.OutOfMemoryError("CUDA out of memory"), found.value):
        fail(error)
        with pytest.raises(memory.MemoryLimitError, match="out of memory with 1 references, 1 images of 16 x 16 px"):
            pipeline("a mug", [picture(1)])
    fail(RuntimeError("a size does not fit"))
    with pytest.raises(RuntimeError, match="a size does not fit"):
        pipeline("a mug", [picture(1)])


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


def test_the_snippet_of_the_model_card_makes_a_marked_picture(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snippet = re.search(r"```python\n(.*?)```", (checkpoint / "MODEL_CARD.md").read_text(), re.DOTALL)
    shutil.copy(checkpoint / "pytorch_lora_weights.safetensors", tmp_path)
    for name in ("a.png", "b.png"):
        Image.fromarray(picture(1)).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    exec(snippet[1], {})
    with Image.open("mug.png") as image:
        assert image.size == (SIDE, SIDE)
    assert source_type(Path("mug.png").read_bytes()) == TRAINED_ALGORITHMIC_MEDIA


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
