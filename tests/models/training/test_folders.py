"""The folder of features: another one for all that they follow from, the same one for all else."""

from pathlib import Path
from typing import Any

import pytest

from configs.load import load_recipe
from configs.training import NoisedReferences, Train
from models.training.folders import features_folder, features_root

BASE = load_recipe("miniature").models.customizer
PLAIN, CROPPED = Train(), Train(reference_crops=2)
NOISED = PLAIN.model_copy(update={"references": "noised", "noised": NoisedReferences()})


def folder(section: Train, base: Any = BASE, seed: int = 0, dataset: str = "a" * 64) -> Path:
    return features_folder(Path("work"), base, section, seed, dataset)


def changed(section: Train, **change: Any) -> Train:
    return section.model_copy(update=change)


@pytest.mark.parametrize(
    "other",
    [
        folder(PLAIN, base=BASE.model_copy(update={"revision": "b" * 64})),
        folder(PLAIN, dataset="b" * 64),
        folder(changed(PLAIN, dtype="bfloat16")),
        folder(changed(PLAIN, max_references=3)),
        folder(CROPPED),
        folder(NOISED),
    ],
    ids=["base", "dataset", "dtype", "flips", "crops", "masks"],
)
def test_what_features_follow_from_has_a_folder_of_its_own(other: Path) -> None:
    assert other != folder(PLAIN)
    assert other.parent == folder(PLAIN).parent == features_root(Path("work"))


def test_what_they_do_not_follow_from_shares_one() -> None:
    others = {"learning_rate": 0.1, "steps": 7, "batch": 3, "lora_rank": 4, "drop_text": 0.5, "processes": 2}
    assert folder(changed(PLAIN, **others)) == folder(PLAIN)
    assert folder(PLAIN, seed=1) == folder(PLAIN)
    grown = changed(NOISED, noised=NoisedReferences(mask_dilation=9, ip_adapter_scale=1.0))
    assert folder(grown) == folder(NOISED)


def test_the_seed_matters_to_crops_and_the_mask_where_it_is_kept() -> None:
    assert folder(CROPPED, seed=1) != folder(CROPPED)
    assert folder(changed(NOISED, noised=NoisedReferences(mask=False))) != folder(NOISED)
