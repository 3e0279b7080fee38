"""The assets stage: paths of the workspace, and objects that stay out of reach."""

from pathlib import Path

import pytest
import stage_runs

from configs.load import load_recipe
from configs.schema import Recipe
from data.assets.base import AssetCandidate, AssetError, FetchedMesh, RejectedAsset
from data.shards import read_all
from tasks import assets

RECIPE = load_recipe("miniature", ("assets.count=3", "assets.shard_size=2"))


class Source:
    """Three objects; those in `trouble` are refused that many times."""

    name = "test"

    def __init__(self, trouble: dict[str, int], transient: bool = True) -> None:
        self.trouble, self.transient, self.asked = trouble, transient, 0

    def candidates(self) -> list[AssetCandidate]:
        return [AssetCandidate(name, "mug", "a mug", "CC0-1.0", name) for name in ("a", "b", "c")]

    def rejected(self) -> list[RejectedAsset]:
        return []

    def fetch(self, candidate: AssetCandidate) -> FetchedMesh:
        self.asked += 1
        if self.trouble.get(candidate.id, 0) > 0:
            self.trouble[candidate.id] -= 1
            raise AssetError("http", "HTTP 503 in <Reply at 0x7f00>", self.transient)
        return FetchedMesh(b"glTF", "0" * 64, "generated", "glb")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "PAUSES_SECONDS", (0.0, 0.0))
    assets._opened.cache_clear()


def run(source: Source, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], dict[str, str]]:
    monkeypatch.setattr(assets, "open_source", lambda *_: source)
    index = stage_runs.run_stage(assets, stage_runs.context("assets", RECIPE, workspace, ()))
    return index.keys, {failure.key: f"{failure.reason}: {failure.detail}" for failure in index.failed}


def test_a_passing_trouble_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(Source({"b": 2}), tmp_path, monkeypatch) == (["a", "b", "c"], {})


def test_an_object_that_stays_out_of_reach_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys, failed = run(Source({"b": 99}), tmp_path, monkeypatch)
    assert keys == ["a", "c"]
    assert failed == {"b": "http: HTTP 503 in <Reply>"}, "an address in memory would change the digest"


def test_trouble_that_does_not_pass_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source({"b": 99}, transient=False)
    run(source, tmp_path, monkeypatch)
    assert source.asked == 3


def test_paths_of_the_recipe_are_meant_from_the_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meshes").mkdir()
    (tmp_path / "meshes" / "cup.glb").write_bytes(b"glTF")
    recipe: Recipe = load_recipe("folder", ("assets.folder=meshes",))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    (spec,) = assets.plan(stage_runs.context("assets", recipe, tmp_path, ()))
    assert spec.keys == ("cup",)


@pytest.mark.parametrize(("share", "held_out"), [(0.0, 0), (0.01, 1), (0.99, 2), (1.0, 3)])
def test_a_few_objects_fall_on_both_sides_unless_the_share_says_none_or_all(
    tmp_path: Path, share: float, held_out: int
) -> None:
    ctx = stage_runs.context(
        "assets", load_recipe("miniature", ("assets.count=3", f"assets.eval_share={share}")), tmp_path, ()
    )
    index = stage_runs.run_stage(assets, ctx)
    assert index.summary["held_out"] == held_out
    records = {sample.key: sample.record["split"] for sample in read_all(ctx.output_dir("assets"), index)}
    assert sorted(key for key, split in records.items() if split == "eval") == index.summary["held_out_objects"]
