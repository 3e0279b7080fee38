"""The render stage on the miniature's meshes: threads, and meshes that hold fewer sets than asked."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import stage_runs

from configs.load import load_recipe
from configs.schema import Recipe
from data.shards import sha256_file
from data.stage import StageContext
from tasks import assets, render

SETTINGS = ("assets.count=4", "render.shard_size=1", "render.candidate_views=4", "render.resolution=32")


@pytest.fixture
def ctx(tmp_path: Path) -> StageContext:
    return prepared(load_recipe("miniature", SETTINGS), tmp_path)


def prepared(recipe: Recipe, workspace: Path) -> StageContext:
    stage_runs.run_stage(assets, stage_runs.context("assets", recipe, workspace, ()))
    return stage_runs.context("render", recipe, workspace, ("assets",))


def test_threads_of_one_process_render_beside_each_other(ctx: StageContext) -> None:
    specs = render.plan(ctx)
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda spec: stage_runs.run_one(render, ctx, spec), specs))
    digests = [receipt.sha256 for receipt in together]
    assert [stage_runs.run_one(render, ctx, spec).sha256 for spec in specs] == digests
    assert [sha256_file(ctx.work_dir / receipt.name) for receipt in together] == digests


def test_a_mesh_with_fewer_sets_than_asked_is_filtered_and_says_why(tmp_path: Path) -> None:
    ctx = prepared(load_recipe("miniature", (*SETTINGS, "assets.count=1", "render.max_sets=2")), tmp_path)
    index = stage_runs.run_stage(render, ctx)
    assert len(index.keys) == 1
    (failure,) = index.failed
    assert failure.reason in render.FILTERED_REASONS and "they hold 1 sets of 3" in failure.detail
