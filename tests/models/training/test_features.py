import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from configs.training import Train
from data.images import encode_png
from data.reader import decode_set
from data.shards import ShardEntry, ShardError, ShardIndex, ShardWriter, load_index, read_all
from models.training.examples import draw_example
from models.training.features import FeatureStore

SECTION = Train(max_references=3)


def test_features_are_those_of_the_very_image_and_prompt(dataset: Path, customizer: Any, tmp_path: Path) -> None:
    index = load_index(dataset)
    store = FeatureStore(tmp_path / "features", index, SECTION, 0)
    assert store.prepare(customizer, dataset) == 3
    for sample in read_all(dataset, index):
        for image in decode_set(sample).images:
            (expected,) = customizer.image_features([image.image], [image.mask])
            assert torch.equal(store.image(sample.key, image.sample_id)["tokens"], expected["tokens"])
            (text,) = customizer.text_features([image.prompt])
            assert torch.equal(store.text(sample.key, image.prompt)["pooled"], text["pooled"])
        assert torch.equal(store.text(sample.key, "")["pooled"], customizer.text_features([""])[0]["pooled"])


def test_features_are_computed_once_and_only_what_is_missing_again(
    dataset: Path, make_customizer: Any, tmp_path: Path
) -> None:
    store = FeatureStore(tmp_path / "features", load_index(dataset), SECTION, 0)
    store.prepare(make_customizer(), dataset)
    second = make_customizer()
    assert FeatureStore(tmp_path / "features", load_index(dataset), SECTION, 0).prepare(second, dataset) == 0
    assert second.encoded_images == []
    sorted((tmp_path / "features").glob("*.safetensors"))[0].unlink()
    assert FeatureStore(tmp_path / "features", load_index(dataset), SECTION, 0).prepare(second, dataset) == 1
    assert second.encoded_images


def test_every_image_has_its_mirror_image(dataset: Path, customizer: Any, tmp_path: Path) -> None:
    index = load_index(dataset)
    store = FeatureStore(tmp_path / "features", index, SECTION, 0)
    store.prepare(customizer, dataset)
    for sample in read_all(dataset, index):
        for image in decode_set(sample).images:
            mirrored = store.image(sample.key, image.sample_id, flipped=True)["tokens"].reshape(image.image.shape)
            np.testing.assert_allclose(mirrored.numpy() * 255, image.image[:, ::-1], atol=1e-3)


def test_a_changed_shard_is_never_encoded(dataset: Path, customizer: Any, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    path = copy / "000001.tar"
    path.write_bytes(path.read_bytes()[:-512])
    with pytest.raises(ShardError, match=r"000001\.tar: sha256"):
        FeatureStore(tmp_path / "features", load_index(copy), SECTION, 0).prepare(customizer, copy)


def test_images_with_a_prompt_that_is_too_long_are_named_and_not_encoded(
    customizer: Any, tmp_path: Path, make_dataset: Any
) -> None:
    dataset = make_dataset(tmp_path / "dataset", long=("set-1-2", "set-4-0", "set-4-1"))
    index = load_index(dataset)
    store = FeatureStore(tmp_path / "features", index, Train(max_references=1), 0)
    assert store.prepare(customizer, dataset) == 3
    assert [(key, own.reason) for key, own in store.skipped.items()] == [
        ("set-1-2", "long_prompt"), ("set-4-0", "long_prompt"), ("set-4-1", "long_prompt")
    ]  # fmt: skip
    assert store.skipped["set-4-1"].detail == "prompt has 289 letters; allowed: 40"
    assert store.images == 20 - 3
    assert max(map(len, customizer.encoded_prompts)) <= 40
    samples = {sample.key: sample for sample in read_all(dataset, index)}
    assert store.usable(samples["set-0"]) is samples["set-0"]
    assert [own["sample_id"] for own in store.usable(samples["set-1"]).record["samples"]] == ["set-1-1", "set-1-3"]
    assert store.usable(samples["set-4"]) is None
    assert len(samples["set-1"].record["samples"]) == 3, "the dataset's own record stays"
    assert len(customizer.encoded_images) == store.images


def test_a_set_that_has_become_small_gets_the_mirror_images_that_its_examples_ask_for(
    customizer: Any, tmp_path: Path, make_dataset: Any
) -> None:
    dataset = make_dataset(tmp_path / "dataset", long=("set-0-0",))
    index, section = load_index(dataset), Train(max_references=1)
    store = FeatureStore(tmp_path / "features", index, section, 0)
    store.prepare(customizer, dataset)
    (example,) = draw_example(1, section, random.Random(0)).references
    assert example.flipped
    store.image("set-0", "set-0-1", flipped=True)


def set_of(pictures: list[tuple[np.ndarray, np.ndarray]], folder: Path) -> tuple[Path, ShardIndex]:
    """A dataset of one set."""
    files, samples = {}, []
    for number, (image, mask) in enumerate(pictures):
        files[f"{number}.png"], files[f"{number}.mask.png"] = encode_png(image), encode_png(mask)
        samples.append({"index": number, "sample_id": f"set-{number}", "prompt": "a mug"})
    with ShardWriter(folder, "shard", "s" * 64, 0) as out:
        out.add("set", {"set_id": "set", "object_id": "mug", "samples": samples}, files)
        receipt = out.finish()
    entry = ShardEntry(name=receipt.name, bytes=receipt.bytes, sha256=receipt.sha256, keys=receipt.keys)
    return folder, ShardIndex(stage="shard", signature="s" * 64, shards=[entry], failed=[])


def framed(seed: int, side: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """An object of 255 on a darker ground of noise."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((side, side), bool)
    top, left = rng.integers(2, 16, 2)
    mask[top : top + 10, left : left + 7] = True
    return np.where(mask[..., None], 255, rng.integers(0, 120, (side, side, 3))).astype(np.uint8), mask


def pixels(store: FeatureStore, sample_id: str, **which: Any) -> np.ndarray:
    return (store.image("set", sample_id, **which)["tokens"].reshape(32, 32, 3) * 255).round().numpy()


def test_crops_show_the_whole_object_larger_and_are_the_same_for_the_same_seed(customizer: Any, tmp_path: Path) -> None:
    pictures = [framed(seed) for seed in range(3)]
    dataset, index = set_of(pictures, tmp_path / "dataset")
    section = Train(max_references=2, reference_crops=4)
    stores = []
    for name, seed in (("one", 0), ("two", 0), ("other", 1)):
        stores.append(FeatureStore(tmp_path / name, index, section, seed))
        stores[-1].prepare(customizer, dataset)
    for number, (image, mask) in enumerate(pictures):
        sample_id = f"set-{number}"
        np.testing.assert_array_equal(pixels(stores[0], sample_id), image)
        crops = [pixels(stores[0], sample_id, crop=crop) for crop in range(4)]
        assert len({crop.tobytes() for crop in crops}) == 4
        for number, crop in enumerate(crops):
            shown = (crop > 200).all(axis=2)
            assert 1.6 < shown.sum() / mask.sum() < 9, "from a square of 12 to 20 pixels to 32"
            high, wide = (np.ptp(np.flatnonzero(shown.any(axis=axis))) + 1 for axis in (1, 0))
            assert 0.85 < (high / wide) / (10 / 7) < 1.15, "nothing of the object is cut off"
            np.testing.assert_array_equal(crop, pixels(stores[1], sample_id, crop=number))
            assert not np.array_equal(crop, pixels(stores[2], sample_id, crop=number))


def test_the_mask_of_a_crop_is_that_of_its_pixels(tmp_path: Path, make_customizer: Any) -> None:
    class WithMasks(make_customizer):
        def image_features(self, images: Any, masks: Any) -> list[dict[str, torch.Tensor]]:
            found = super().image_features(images, masks)
            return [{**own, "mask": torch.from_numpy(mask.copy())} for own, mask in zip(found, masks, strict=True)]

    dataset, index = set_of([framed(5), framed(6)], tmp_path / "dataset")
    store = FeatureStore(tmp_path / "features", index, Train(max_references=2, reference_crops=2), 0)
    store.prepare(WithMasks(), dataset)
    for flipped in (False, True):
        for crop in range(2):
            mask = store.image("set", "set-0", flipped=flipped, crop=crop)["mask"].numpy()
            bright = (pixels(store, "set-0", flipped=flipped, crop=crop) > 200).all(axis=2)
            assert (bright & ~mask).sum() == 0
            assert (mask & ~bright).sum() <= 2 * (32 + 32), "pixels that hold any of the object: one more at the edge"
    mirrored = pixels(store, "set-0", flipped=True, crop=1)
    np.testing.assert_array_equal(mirrored, pixels(store, "set-0", crop=1)[:, ::-1])


def test_of_an_image_without_an_object_the_crops_are_the_whole(customizer: Any, tmp_path: Path) -> None:
    image, mask = framed(1)
    dataset, index = set_of([(image, mask & ~mask), framed(2)], tmp_path / "dataset")
    store = FeatureStore(tmp_path / "features", index, Train(reference_crops=2), 0)
    store.prepare(customizer, dataset)
    for crop in range(2):
        np.testing.assert_array_equal(pixels(store, "set-0", crop=crop), image)


@pytest.mark.parametrize(
    ("section", "encoded"),
    [
        (Train(max_references=2), 3),
        (Train(max_references=3), 6),
        (Train(max_references=2, reference_crops=2), 9),
        (Train(max_references=3, reference_crops=2), 15),
    ],
)
def test_only_what_examples_can_ask_for_is_encoded(
    section: Train, encoded: int, customizer: Any, tmp_path: Path
) -> None:
    dataset, index = set_of([framed(seed) for seed in range(3)], tmp_path / "dataset")
    store = FeatureStore(tmp_path / "features", index, section, 0)
    store.prepare(customizer, dataset)
    assert len(customizer.encoded_images) == encoded
    rng = random.Random(0)
    for _ in range(300):
        for own in draw_example(3, section, rng).references:
            store.image("set", f"set-{own.place}", own.flipped, own.crop)
