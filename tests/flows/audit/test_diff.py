"""What changed between two versions, and why, against plain comparisons of their records."""

import shutil
from collections import Counter
from pathlib import Path

import audit_answers as known
import pytest
from audited_workspace import activate, run
from forged_stages import change_samples, changed_record, reseal_from

from configs.errors import ConfigError
from data.audit.parts import AuditError
from data.shards import Sample, sha256_file
from flows.audit.diff import changed_keys, diff
from flows.audit.store import open_versions


@pytest.fixture(scope="module")
def stricter(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a higher threshold, and shards of another size."""
    folder = shutil.copytree(finished, tmp_path_factory.mktemp("diff") / "workspace")
    activate(folder, "select.min_quality=5.5", "train.pairs_share=0.0", "shard.shard_size=2")
    run(folder, "select", "shard")
    return folder


def reasons_of(own: dict) -> str:
    codes = {image["reasons"][0]["code"] for image in own["images"]} - {"set_too_small"}
    return f"dropped: {', '.join(sorted(codes))}"


def test_sets_that_went_have_the_reason_of_the_later_version(finished: Path, stricter: Path) -> None:
    before, after = known.records(finished, "shard"), known.records(stricter, "shard")
    decided = known.records(stricter, "select")
    gone, fewer = set(before) - set(after), {key for key in after if after[key]["samples"] != before[key]["samples"]}
    assert gone and fewer and set(after) < set(before)
    answer = diff(*versions(finished, stricter), everything=True)
    removed = Counter(("removed", reasons_of(decided[key])) for key in gone)
    counts = {(row["change"], row["reason"]): row["count"] for row in answer["sets"]}
    assert counts == {**removed, ("changed", "other images kept"): len(fewer)}
    assert answer["same_sets"] == len(after) - len(fewer)
    assert {row["set_id"] for row in answer["changed_sets"]} == gone | fewer


def versions(*workspaces: Path):
    store, digests = open_versions(Path("nowhere"), *map(str, workspaces))
    return store, *digests


def test_backwards_the_same_sets_come_and_say_why_they_were_not_there(finished: Path, stricter: Path) -> None:
    there = {
        row["reason"]: row["count"] for row in diff(*versions(finished, stricter))["sets"] if row["change"] == "removed"
    }
    back = {
        row["reason"]: row["count"] for row in diff(*versions(stricter, finished))["sets"] if row["change"] == "added"
    }
    assert back == {f"before: {reason}": count for reason, count in there.items()}


def test_the_keys_of_the_recipe_that_changed_are_named_with_the_stages_that_read_them(
    finished: Path, stricter: Path
) -> None:
    answer = diff(*versions(finished, stricter))
    changed = {row["key"]: (row["first"], row["second"], row["stages"]) for row in answer["recipe"]}
    assert changed == {
        "select.min_quality": (5.0, 5.5, ["select"]),
        "shard.shard_size": (3, 2, ["shard"]),
    }
    assert answer["models"] == answer["assets"] == answer["packages"] == []


def test_changed_records_and_assets_are_told_apart(workspace: Path, finished: Path) -> None:
    victim = next(iter(known.records(finished, "shard")))
    name = victim.rpartition("-s")[0]

    def asset(own: Sample) -> Sample:
        return changed_record(own, licence="CC-BY-4.0", caption="other") if own.key == name else own

    def published(own: Sample) -> Sample:
        if own.key != victim:
            return own
        images = [dict(image) for image in own.record["samples"]]
        images[0] |= {"prompt": "something else", "seed": 1}
        picture = {f"{images[0]['index']}.png": own.files[f"{images[1]['index']}.png"]}
        return Sample(own.key, {**own.record, "samples": images}, {**own.files, **picture})

    change_samples(workspace, "assets", asset)
    change_samples(workspace, "shard", published)
    reseal_from(workspace, "assets", "shard")
    answer = diff(*versions(finished, workspace), everything=True)
    assert {(row["object_id"], row["change"], row["second"]) for row in answer["assets"]} == {
        (name, "other licence", "CC-BY-4.0"),
        (name, "other caption", "other"),
    }
    (row,) = (row for row in answer["changed_sets"] if row["set_id"] == victim)
    assert row["reasons"] == ["other licence", "other prompt", "other seed", "other pixels"]
    others = {reason for row in answer["changed_sets"] if row["set_id"] != victim for reason in row["reasons"]}
    assert others <= {"other licence"}


def test_a_dataset_is_equal_to_itself(finished: Path) -> None:
    answer = diff(*versions(finished, finished))
    assert answer["sets"] == answer["recipe"] == answer["code"] == []
    assert answer["same_sets"] == len(known.records(finished, "shard"))


def test_versions_are_digests_or_workspaces(finished: Path, stricter: Path) -> None:
    first, second = (sha256_file(own / "artifacts" / "shard" / "index.json") for own in (finished, stricter))
    assert open_versions(stricter, first[:10], second)[1] == [first, second]
    assert open_versions(stricter, str(finished), second[:10])[1] == [first, second]
    with pytest.raises(AuditError, match="0000: no dataset of this store"):
        open_versions(finished, first, "0000")
    with pytest.raises(ConfigError, match="no workspace, artifacts/ is missing"):
        open_versions(finished / "configs", first, second)


def test_a_key_that_only_one_side_has_is_a_change() -> None:
    first = {"a": {"f": {"x": {"y": 1, "z": 2}}}, "b": {"f": {"x": {"y": 1}}}}
    second = {"a": {"f": {"x": {"y": 3}}}, "b": {"f": {"x": {"y": 3}}}}
    assert changed_keys(first, second) == [
        {"file": "f", "key": "x.y", "first": 1, "second": 3, "stages": ["a", "b"]},
        {"file": "f", "key": "x.z", "first": 2, "second": None, "stages": ["a"]},
    ]
