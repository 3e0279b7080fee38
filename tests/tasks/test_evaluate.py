import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from evaluation_runs import (
    SIDE,
    build_workspace,
    context_of,
    evaluated,
    prompts_of,
    rendered,
    small_recipe,
    train_small,
)

from configs.schema import Recipe
from data.images import decode_png
from data.shards import sha256_file
from models.customizer import CustomizeRequest, CustomizeSettings, load_customizer
from models.training.restore import restore
from tasks import evaluate
from tasks.evaluation.rows import guidance_of, rows_of

Workspace = Callable[..., Path]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return small_recipe(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def trained(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_small(tmp_path_factory.mktemp("trained"), recipe)


@pytest.fixture
def make_workspace(tmp_path: Path, recipe: Recipe, trained: Path) -> Workspace:
    def make(renders: list[Any], prompts: list[Any], name: str = "run", held_out: list[str] | None = None) -> Path:
        return build_workspace(tmp_path / name, recipe, trained, renders, prompts, held_out)

    return make


def test_every_row_makes_the_same_shots_from_the_same_noise(recipe: Recipe, make_workspace: Workspace) -> None:
    workspace = make_workspace([rendered("mug-a", 1)], [prompts_of("mug-a")])
    records, files, index = evaluated(workspace, recipe)
    record = records["mug-a"]
    by_row: dict[str, list[tuple[int, int, int]]] = {}
    for image in record.images:
        by_row.setdefault(image.row, []).append((image.prompt, image.seed, image.noise_seed))
    assert list(by_row) == ["base", "copy", "ours-1", "ours-3", "plain-1", "plain-3"]
    assert all(shots == by_row["base"] for shots in by_row.values())
    assert len({noise for _, _, noise in by_row["base"]}) == 4, "every prompt and seed has noise of its own"
    assert {image.kind for image in record.images} == {"background", "property"}
    assert set(files["mug-a"]) == {f"ref.{n}.png" for n in range(3)} | {f"{image.name}.png" for image in record.images}
    assert index.summary["images"] == 24


def test_rows_are_the_model_with_what_their_names_say(recipe: Recipe, make_workspace: Workspace, trained: Path) -> None:
    workspace = make_workspace([rendered("mug-a", 1)], [prompts_of("mug-a")])
    records, files, _ = evaluated(workspace, recipe)
    own = files["mug-a"]
    references = tuple(decode_png(own[f"ref.{place}.png"]) for place in range(3))
    base = load_customizer(recipe.models.customizer, "cpu", "float32", "separate")
    adapted, _ = restore(trained / "artifacts" / "train", "cpu")
    section = recipe.evaluate
    shot = next(image for image in records["mug-a"].images if image.prompt == 1 and image.seed == 1)
    pictures = {}
    for row, model, count, guidance in (
        ("base", base, 0, "plain"),
        ("ours-1", adapted, 1, "normalised"),
        ("ours-3", adapted, 3, "normalised"),
        ("plain-1", adapted, 1, "plain"),
        ("plain-3", adapted, 3, "plain"),
    ):
        scale = section.base_text_scale if row == "base" else section.guidance.text_scale
        changes = {"form": guidance, "text_scale": scale}
        settings = CustomizeSettings(
            SIDE, SIDE, section.steps, section.guidance_scale, section.guidance.model_copy(update=changes)
        )
        request = CustomizeRequest("a blue mug", shot.noise_seed, references[:count])
        expected = model.generate_many([request], settings)[0]
        pictures[row] = decode_png(own[f"{row}.p1.s1.png"])
        assert np.abs(pictures[row].astype(int) - expected).max() <= 1
    distinct = {picture.tobytes() for picture in pictures.values()}
    assert len(distinct) == 5, "the rows differ, so that the comparison above means something"
    np.testing.assert_array_equal(decode_png(own["copy.p1.s1.png"]), references[0])


def test_files_and_summary_hold_the_numbers_of_the_records(recipe: Recipe, make_workspace: Workspace) -> None:
    names = ["mug-a", "mug-b", "mug-c"]
    workspace = make_workspace(
        [rendered(name, seed) for seed, name in enumerate(names)], [prompts_of(name) for name in names]
    )
    records, _, index = evaluated(workspace, recipe)
    folder = workspace / "artifacts" / "evaluate"
    metrics = json.loads((folder / "metrics.json").read_text())
    by_hand = np.mean(
        [np.mean([image.identity for image in records[name].images if image.row == "ours-3"]) for name in names]
    )
    assert metrics["rows"]["ours-3"]["all"]["identity"]["mean"] == pytest.approx(by_hand, abs=1e-4)
    assert index.summary["identity"]["ours-3"] == metrics["rows"]["ours-3"]["all"]["identity"]["mean"]
    assert metrics["rows"]["base"]["background"]["identity"]["seed_std"] is not None
    assert "ours-3 - ours-1" in metrics["differences"]["all"]
    assert "ours-1 - plain-1" in metrics["differences"]["property"]
    assert recipe.models.identity.revision in metrics["backbones"]["identity"]
    assert recipe.models.segmenter.revision in metrics["backbones"]["identity"]
    assert metrics["backbones"]["text"].startswith("clip_facts by tiny-clip@")
    customizer = f"tiny-flux@{recipe.models.customizer.revision}"
    assert {row: metrics["models"][row] for row in ("base", "copy", "ours-3")} == {
        "base": customizer,
        "copy": "none",
        "ours-3": f"LoRA on {customizer}",
    }
    assert pq.read_table(folder / "images.parquet").num_rows == 72
    assert "clip_facts" in (folder / "table.md").read_text()
    assert (folder / "table.csv").read_text().startswith("row,kind,metric,mean")


def test_objects_are_chosen_by_id_and_smaller_choices_are_part_of_larger_ones(
    recipe: Recipe, make_workspace: Workspace
) -> None:
    names = [f"mug-{letter}" for letter in "abcdef"]
    renders = [rendered(name, 0, number=number) for name in names for number in (0, 1)]
    workspace = make_workspace(renders, [], held_out=[key for key, _, _ in renders if not key.startswith("mug-c")])

    def chosen(count: int) -> list[str]:
        section = recipe.evaluate.model_copy(update={"objects": count, "shard_size": 2})
        plan = evaluate.plan(context_of(workspace, recipe.model_copy(update={"evaluate": section})))
        return [key for spec in plan for key in spec.keys]

    assert chosen(0) == ["mug-a", "mug-b", "mug-d", "mug-e", "mug-f"]
    assert set(chosen(2)) < set(chosen(4)) < set(chosen(0))


def test_objects_that_cannot_be_evaluated_are_recorded_with_the_reason(
    recipe: Recipe, make_workspace: Workspace
) -> None:
    facts_gone = prompts_of("mug-d")
    facts_gone[1].prompts[0] = facts_gone[1].prompts[0].model_copy(update={"facts": []})
    workspace = make_workspace(
        [rendered("mug-a", 0, views=2), *(rendered(f"mug-{letter}", 1) for letter in "bcde")],
        [prompts_of("mug-a"), prompts_of("mug-c", ("scene",)), facts_gone, prompts_of("mug-e")],
    )
    records, _, index = evaluated(workspace, recipe)
    assert list(records) == ["mug-e"]
    assert {failure.key: failure.reason for failure in index.failed} == {
        "mug-a": "too_few_views",
        "mug-b": "no_prompts",
        "mug-c": "no_prompts",
        "mug-d": "no_facts",
    }


def test_an_object_with_a_prompt_that_is_too_long_fails_alone(recipe: Recipe, make_workspace: Workspace) -> None:
    """The others of its shard are made as if it were not there."""
    together = recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"shard_size": 3})})
    long = prompts_of("mug-b")
    words = "a red mug on the beach in the forest " * 20
    long[1].prompts[1] = long[1].prompts[1].model_copy(update={"text": words})
    renders = [rendered(name, seed) for seed, name in enumerate(("mug-a", "mug-b", "mug-c"))]
    workspace = make_workspace(renders, [prompts_of("mug-a"), long, prompts_of("mug-c")])
    records, files, index = evaluated(workspace, together)
    assert list(records) == ["mug-a", "mug-c"]
    (failure,) = index.failed
    assert (failure.key, failure.reason) == ("mug-b", "long_prompt")
    assert failure.detail.startswith("1 of 2 prompts, for example: prompt has 181 tokens; allowed: ")
    assert words in failure.detail
    without = make_workspace([renders[0], renders[2]], [prompts_of("mug-a"), prompts_of("mug-c")], name="without")
    assert (records, files) == evaluated(without, together)[:2]


def test_views_of_several_sets_of_an_object_are_pooled(recipe: Recipe, make_workspace: Workspace) -> None:
    workspace = make_workspace(
        [rendered("mug-a", 0, views=2), rendered("mug-a", 1, views=2, number=1)], [prompts_of("mug-a")]
    )
    records, _, index = evaluated(workspace, recipe)
    assert records["mug-a"].references == 3
    assert index.failed == []


def test_references_keep_the_object_and_change_only_what_is_behind_it(
    recipe: Recipe, make_workspace: Workspace
) -> None:
    pictures = {}
    for backdrop in ("scenes", "grey"):
        section = recipe.evaluate.model_copy(update={"backdrop": backdrop, "seeds": (0,)})
        workspace = make_workspace([rendered("mug-a", 1)], [prompts_of("mug-a")], name=backdrop)
        _, files, _ = evaluated(workspace, recipe.model_copy(update={"evaluate": section}))
        pictures[backdrop] = decode_png(files["mug-a"]["ref.1.png"])
    object_pixels = decode_png(rendered("mug-a", 1)[2]["1.rgb.png"])[4:12, 3:11, :3]
    for picture in pictures.values():
        np.testing.assert_array_equal(picture[4:12, 3:11], object_pixels)
    assert (pictures["grey"][:4] == 128).all()
    assert not (pictures["scenes"][:4] == 128).all()


def test_a_checkpoint_of_another_base_is_refused(recipe: Recipe, make_workspace: Workspace) -> None:
    workspace = make_workspace([rendered("mug-a", 1)], [prompts_of("mug-a")])
    other = recipe.models.model_copy(
        update={"customizer": recipe.models.customizer.model_copy(update={"revision": "f" * 64})}
    )
    with pytest.raises(ValueError, match=r"trained from tiny-flux@.* run the train stage again"):
        evaluated(workspace, recipe.model_copy(update={"models": other}))


def test_without_held_out_objects_there_is_nothing_to_do(recipe: Recipe, make_workspace: Workspace) -> None:
    workspace = make_workspace([rendered("mug-a", 1)], [], held_out=[])
    assert evaluate.plan(context_of(workspace, recipe)) == []
    _, _, index = evaluated(workspace, recipe)
    assert index.summary["objects"] == 0


def test_equal_runs_give_equal_bytes(recipe: Recipe, make_workspace: Workspace) -> None:
    digests = []
    for name in ("one", "two"):
        workspace = make_workspace([rendered("mug-a", 1)], [prompts_of("mug-a")], name=name)
        evaluated(workspace, recipe)
        folder = workspace / "artifacts" / "evaluate"
        digests.append({path.name: sha256_file(path) for path in sorted(folder.iterdir())})
    assert digests[0] == digests[1]


def test_prompts_that_change_a_property_may_start_from_another_image_scale(recipe: Recipe) -> None:
    guidance = recipe.evaluate.guidance.model_copy(update={"image_scale": 8.0, "image_scale_rise": 5.0})
    changes = {"guidance": guidance, "property_image_scale": 6.0, "references": (1,)}
    section = recipe.evaluate.model_copy(update=changes)
    rows = {row.name: row for row in rows_of(section)}
    scales = {
        (name, kind): guidance_of(section, row, kind).image_scale
        for name, row in rows.items()
        for kind in ("background", "property")
    }
    assert scales["ours-1", "background"] == scales["plain-1", "background"] == 8.0
    assert scales["ours-1", "property"] == scales["plain-1", "property"] == 6.0
    assert guidance_of(section, rows["plain-1"], "property").form == "plain"


def test_guidance_norms_of_every_step_are_published(recipe: Recipe, make_workspace: Workspace) -> None:
    workspace = make_workspace([rendered("mug-a", 1)], [prompts_of("mug-a")])
    records, _, _ = evaluated(workspace, recipe)
    with (workspace / "artifacts" / "evaluate" / "guidance.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    assert {line["row"] for line in lines} == {"ours-1", "ours-3", "plain-1", "plain-3"}
    own = [image for image in records["mug-a"].images if image.row == "ours-1" and image.kind == "background"]
    for line in (line for line in lines if (line["row"], line["kind"]) == ("ours-1", "background")):
        at_step = [image.guidance_norms[int(line["step"])] for image in own]
        assert float(line["text_norm"]) == pytest.approx(np.mean([text for _, _, text in at_step]), abs=1e-3)
        assert float(line["text_norm"]) > 0 and int(line["images"]) == len(own)
