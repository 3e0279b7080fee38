from pathlib import Path

import pytest

from configs.load import load_recipe
from configs.schema import Runtime
from flows.forecast import expected_keys, expected_shards, memory_json, memory_table

RIGID = load_recipe("flux-rigid")


def test_keys_and_shards_of_every_stage_follow_from_the_number_of_objects() -> None:
    keys = expected_keys(RIGID, 75_000)
    assert (keys["prompts"], keys["render"], keys["generate"], keys["evaluate"]) == (75_000, 150_000, 150_000, 0)
    assert expected_shards(RIGID, "prompts", keys["prompts"]) == 2344
    assert expected_shards(RIGID, "render", keys["render"]) == 2344, "both sets of an object are in one shard"
    assert expected_shards(RIGID, "generate", keys["generate"]) == 9375
    assert (expected_shards(RIGID, "train", 1), expected_shards(RIGID, "report", 0)) == (1, 0)
    series = load_recipe("flux-deformable", ("assets.per_kind=20", "prompts.shard_size=32"))
    assert expected_shards(series, "prompts", 1580) == 79, "a series is never cut"
    assert expected_shards(series.model_copy(update={"assets": RIGID.assets}), "prompts", 1580) == 50


def test_memory_says_what_stays_and_what_offloading_saves() -> None:
    staying, moving = (memory_table(RIGID, Runtime(offload=offload)) for offload in ("none", "all"))
    assert staying[0] == ["stage", "memory", "parameters", "GiB"]
    assert ["generate", "transformer", "11,901,604,928", "22.17"] in staying
    sums = [row for row in staying + moving if row[1].startswith("at most")]
    assert [row[0] for row in sums] == ["prompts", "generate", "score"] * 2
    assert float(sums[1][3]) > 31 and 22.17 < float(sums[4][3]) < 26
    assert sums[0] == sums[3] and sums[2] == sums[5], "only generation moves its parts"
    peaks = memory_json(RIGID, Runtime())
    assert peaks["generate"]["peak"] / 2**30 > 31 and set(peaks) == {"prompts", "generate", "score"}


def test_memory_that_is_not_known_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNCD_MINIATURE_WEIGHTS", str(tmp_path))
    recipe = load_recipe("miniature")
    _, row = memory_table(recipe, Runtime())
    assert "unknown: model miniature-flux: no folder" in row[1] and "syncd miniature train" in row[1]
    assert "no folder" in memory_json(recipe, Runtime())["unknown"]
