"""From an asset, licence, model, prompt or sample up to datasets and checkpoints, against plain loops."""

from collections.abc import Collection
from pathlib import Path

import audit_answers as known
import pytest

from data.audit.parts import AuditError
from data.audit.query import Store
from flows.audit.find import find
from flows.audit.store import open_store


@pytest.fixture(scope="module")
def store(finished: Path) -> Store:
    return open_store(finished)


def samples_where(finished: Path, condition) -> dict[str, str]:
    """Set by sample id of the published images for whose (set record, image) the condition holds."""
    published = known.records(finished, "shard")
    return {
        image["sample_id"]: key for key, own in published.items() for image in own["samples"] if condition(own, image)
    }


def check(finished: Path, answer: dict, wanted: dict[str, str]) -> None:
    used = known.uses(finished)
    (dataset,), (checkpoint,) = answer["datasets"], answer["checkpoints"]
    assert (dataset["samples"], dataset["sets"]) == (len(wanted), len(set(wanted.values())))
    assert checkpoint["as_target"] == count(used.target, wanted)
    assert checkpoint["as_reference"] == count(used.reference, wanted)
    steps = sorted(step for name in wanted for step in used.steps.get(name, []))
    assert checkpoint["steps"] == len(set(steps))
    assert (checkpoint["first_step"], checkpoint["last_step"]) == ((steps[0], steps[-1]) if steps else (None, None))
    for row in answer.get("samples", []):
        assert row["as_target"] == used.target[row["sample_id"]]
        assert row["as_reference"] == used.reference[row["sample_id"]]
    if "samples" in answer:
        assert {row["sample_id"] for row in answer["samples"]} == set(wanted)


def count(counted, names: Collection[str]) -> int:
    return sum(counted[name] for name in names)


@pytest.mark.parametrize("field", ["object_id", "uri", "source_sha256", "mesh_sha256"])
def test_an_asset_is_found_by_each_of_its_names(finished: Path, store: Store, field: str) -> None:
    own = next(iter(known.records(finished, "shard").values()))
    value = own["object_id"] if field == "object_id" else own["asset"][field]
    answer = find(store, "asset", value, everything=True)
    assert [row["object_id"] for row in answer["assets"]] == [own["object_id"]]
    check(finished, answer, samples_where(finished, lambda other, _: other["object_id"] == own["object_id"]))


def test_a_licence_leads_to_all_that_is_under_it(finished: Path, store: Store) -> None:
    answer = find(store, "license", "cc0-1.0", everything=True)
    check(finished, answer, samples_where(finished, lambda own, _: own["asset"]["licence"] == "CC0-1.0"))
    assert len(answer["assets"]) == len(known.records(finished, "assets"))


@pytest.mark.parametrize("model", ["miniature-dino", "miniature-flux@ec"])
def test_a_model_is_behind_all_of_it(finished: Path, store: Store, model: str) -> None:
    check(finished, find(store, "model", model), samples_where(finished, lambda *_: True))
    with pytest.raises(AuditError, match="in no dataset and no checkpoint"):
        find(store, "model", f"{model.partition('@')[0]}@0000")


def test_every_sample_has_its_exact_count(finished: Path, store: Store) -> None:
    for name, key in samples_where(finished, lambda *_: True).items():
        check(finished, find(store, "sample", name, everything=True), {name: key})


def test_part_of_a_prompt_is_found_in_any_case(finished: Path, store: Store) -> None:
    word = next(iter(known.records(finished, "shard").values()))["samples"][0]["prompt"].split()[-1]
    wanted = samples_where(finished, lambda _, image: word in image["prompt"])
    check(finished, find(store, "prompt", word.upper(), everything=True), wanted)


def test_a_dropped_sample_is_in_no_dataset_and_has_its_reason(finished: Path, store: Store) -> None:
    key, own = next((key, own) for key, own in known.records(finished, "select").items() if not own["kept"])
    answer = find(store, "sample", f"{key}-1")
    assert answer["datasets"] == answer["checkpoints"] == []
    assert answer["decisions"][0]["reason"] == own["images"][1]["reasons"][0]["code"]


def test_a_held_out_object_is_in_no_published_image(finished: Path, store: Store) -> None:
    name = next(key for key, own in known.records(finished, "assets").items() if own["split"] == "eval")
    answer = find(store, "asset", name)
    assert answer["assets"][0]["split"] == "eval" and answer["datasets"] == []


@pytest.mark.parametrize("kind", ["asset", "license", "model", "sample", "prompt"])
def test_what_is_nowhere_is_an_error(store: Store, kind: str) -> None:
    with pytest.raises(AuditError, match=f"{kind} nowhere: in no dataset"):
        find(store, kind, "nowhere")
