import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.reader import decode_set
from data.shards import ShardError, load_index, read_all
from models.training.features import FeatureStore


def test_features_are_those_of_the_very_image_and_prompt(dataset: Path, customizer: Any, tmp_path: Path) -> None:
    index = load_index(dataset)
    store = FeatureStore(tmp_path / "features", index)
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
    store = FeatureStore(tmp_path / "features", load_index(dataset))
    store.prepare(make_customizer(), dataset)
    second = make_customizer()
    assert FeatureStore(tmp_path / "features", load_index(dataset)).prepare(second, dataset) == 0
    assert second.encoded_images == []
    sorted((tmp_path / "features").glob("*.safetensors"))[0].unlink()
    assert FeatureStore(tmp_path / "features", load_index(dataset)).prepare(second, dataset) == 1
    assert second.encoded_images


def test_every_image_has_its_mirror_image(dataset: Path, customizer: Any, tmp_path: Path) -> None:
    index = load_index(dataset)
    store = FeatureStore(tmp_path / "features", index)
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
        FeatureStore(tmp_path / "features", load_index(copy)).prepare(customizer, copy)
