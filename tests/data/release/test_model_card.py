from dataclasses import asdict
from typing import Any

import pytest
import yaml

from configs.schema import ModelRef, Release
from configs.training import Train
from data.release.licensing import asset_inputs, conclude, maker
from data.release.model_card import Training, dataset_card, licence_of, model_card
from data.shards import ShardError, ShardIndex

FLUX = "LicenseRef-FLUX.1-dev-NC"
ASSETS = {"CC-BY-4.0": 3, "CC0-1.0": 1}


def training(licence: str = FLUX, source: str = "hub:black-forest-labs/FLUX.1-dev", **changes: Any) -> Training:
    made = [*asset_inputs(ASSETS), maker("generator", "flux@1", FLUX)]
    values = {
        "section": Train(),
        "seed": 3,
        "base": ModelRef(name="flux-dev", architecture="flux", source=source, revision="c" * 40, licence=licence),
        "dataset": {
            "title": "SynCD rigid",
            "recipe": "flux-rigid",
            "sets": 7,
            "images": 20,
            "licences": ASSETS,
            "licence": asdict(conclude(made)),
            "miniature": False,
            "release": Release(url="https://huggingface.co/datasets/lab/syncd").model_dump(mode="json"),
        },
        "dataset_sha256": "a" * 64,
        "recipe_sha256": "b" * 64,
        "height": 512,
        "width": 512,
        "summary": {
            "steps": 9,
            "samples_seen": 72,
            "sets_seen": 7,
            "loss_first_tenth": 0.5,
            "loss_last_tenth": 0.25,
            "pairs": 11,
            "pairs_seen": 4,
        },
    }
    return Training(**values | changes)


def head(text: str) -> dict[str, Any]:
    return yaml.safe_load(text.split("---")[1])


def test_the_front_matter_is_what_the_hub_reads() -> None:
    found = head(model_card(training()))
    assert found["base_model"] == "black-forest-labs/FLUX.1-dev" and found["base_model_relation"] == "adapter"
    assert (found["license"], found["license_name"]) == ("other", f"{FLUX} AND CC-BY-4.0")
    assert found["datasets"] == ["lab/syncd"] and "miniature" not in found["tags"]
    assert head(model_card(training("Apache-2.0", "folder:x")))["base_model"] == "flux-dev"


def test_non_commercial_terms_of_base_and_data_reach_the_checkpoint() -> None:
    assert licence_of(training()).commercial_use == "no"
    of_data_alone = licence_of(training("Apache-2.0"))
    assert of_data_alone.commercial_use == "no"
    assert of_data_alone.reasons["commercial_use"] == ["dataset SynCD rigid"]
    text = model_card(training())
    assert "The FLUX.1 [dev] Model is licensed by Black Forest Labs. Inc." in " ".join(text.split()), "its notice"
    assert f"| commercial use | no | base model flux-dev@{'c' * 40}; dataset SynCD rigid |" in text
    assert "belongs to the miniature" not in text


def test_text_image_pairs_leave_the_terms_unknown_unless_something_forbids() -> None:
    mixed = Train(pairs="pairs", pairs_share=0.1)
    free = {**training().dataset, "licence": asdict(conclude(asset_inputs({"CC0-1.0": 1})))}
    found = licence_of(training("Apache-2.0", section=mixed, dataset=free))
    assert found.commercial_use == "unknown" and found.expression == "Apache-2.0 AND LicenseRef-unknown"
    assert licence_of(training("Apache-2.0", section=mixed)).commercial_use == "no"
    assert "11, 4 seen, listed in pairs.json; their terms are not known here" in model_card(training(section=mixed))


def test_a_dataset_without_a_card_is_an_error_with_the_fix(tmp_path) -> None:
    index = ShardIndex(stage="shard", signature="0" * 64, shards=[], failed=[])
    with pytest.raises(ShardError, match=r"lists no card\.json, .* run the shard stage again"):
        dataset_card(tmp_path, index)
