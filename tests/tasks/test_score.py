"""Scores of every image: known answers, equal whatever the shards, and bad input recorded with its reason."""

import numpy as np
import pytest
import tiny_models
import torch
from generated_sets import PROMPTS, generated, random_set
from stage_runs import context, run_stage, write_input

from configs.load import load_recipe
from data.images import decode_mask, decode_png
from data.records import ScoreRecord
from data.shards import read_all
from models import registry
from models.scorers.frame import clipped_share, cut_off_share, perceptual_hash, saturation
from models.scorers.quality import QualityHead, save_quality_head
from tasks import score


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("models")
    refs = {
        "clip": tiny_models.ref_of(tiny_models.clip_folder(root / "clip"), "clip"),
        "quality": tiny_models.ref_of(tiny_models.quality_folder(root / "quality"), "quality_head"),
        "identity": tiny_models.ref_of(tiny_models.identity_folder(root / "dino"), "dinov2"),
    }
    whole = load_recipe("miniature", ("score.shard_size=2",))
    return whole.model_copy(update={"models": whole.models.model_copy(update=refs)})


def run(recipe, workspace, sets):
    write_input(workspace, "generate", sets, recipe)
    ctx = context("score", recipe, workspace, ("generate",))
    index = run_stage(score, ctx)
    records = read_all(ctx.output_dir("score"), index)
    return {sample.key: ScoreRecord.model_validate(sample.record) for sample in records}, index


def test_scores_are_those_of_the_scorers_on_each_set_alone(recipe, tmp_path):
    sets = [random_set(name, seed) for seed, name in enumerate(("bowl", "cup", "jug"))]
    scores, _ = run(recipe, tmp_path, sets)
    clip, quality, identity = (
        registry.load(getattr(recipe.models, role), "cpu", "float32") for role in ("clip", "quality", "identity")
    )
    for key, record, files in sets:
        images = [decode_png(files[f"{index}.png"]) for index in range(3)]
        masks = [decode_mask(files[f"{index}.mask.png"]) for index in range(3)]
        seen, told = clip.embed_images(images), clip.embed_texts([sample.prompt for sample in record.samples])
        crops, cutouts = identity.embed(images, masks), identity.embed(images, masks, background=False)
        greyed = [image.copy() for image in images]
        for image, mask in zip(greyed, masks, strict=True):
            image[mask] = 128
        contexts = identity.embed(greyed, None)
        for i, found in enumerate(scores[key].images):
            rest = [j for j in range(3) if j != i]
            assert found.quality == pytest.approx(quality.scores(seen[i : i + 1])[0], abs=1e-5)
            assert found.clip_text == pytest.approx(seen[i] @ told[i], abs=1e-5)
            assert found.clip_image == pytest.approx(np.mean([seen[i] @ seen[j] for j in rest]), abs=1e-5)
            assert found.identity == pytest.approx(np.mean([crops[i] @ crops[j] for j in rest]), abs=1e-5)
            assert found.identity_masked == pytest.approx(np.mean([cutouts[i] @ cutouts[j] for j in rest]), abs=1e-5)
            assert found.background == pytest.approx(np.mean([contexts[i] @ contexts[j] for j in rest]), abs=1e-5)
            assert found.area == pytest.approx(masks[i].mean(), abs=1e-6)
            assert found.clipped == pytest.approx(clipped_share(images[i]), abs=1e-6)
            assert found.saturation == pytest.approx(saturation(images[i]), abs=1e-6)
            assert found.cut_off == pytest.approx(cut_off_share(masks[i]), abs=1e-6)
            assert scores[key].hashes[i] == perceptual_hash(images[i])
            for j in range(3):
                assert scores[key].background_pairs[i][j] == pytest.approx(contexts[i] @ contexts[j], abs=1e-5)
                assert scores[key].identity_pairs[i][j] == pytest.approx(crops[i] @ crops[j], abs=1e-5)


def test_identical_images_have_identity_one(recipe, tmp_path):
    _, _, files = random_set("cup", 0)
    image, mask = decode_png(files["0.png"]), decode_mask(files["0.mask.png"])
    scores, _ = run(recipe, tmp_path, [generated("cup", [image] * 3, [mask] * 3)])
    for found in scores["cup-s0"].images:
        assert (found.identity, found.identity_masked, found.clip_image) == (1.0, 1.0, 1.0)
    assert scores["cup-s0"].identity_pairs == [[1.0] * 3] * 3


def test_the_same_object_before_other_backgrounds_is_alike_only_when_masked(recipe, tmp_path):
    _, _, files = random_set("cup", 0)
    images = [decode_png(files[f"{index}.png"]).copy() for index in range(3)]
    mask = np.zeros((32, 32), bool)
    mask[np.add.outer(np.arange(32), np.arange(32)) % 31 < 16] = True
    for image in images:
        image[mask] = images[0][mask]
    scores, _ = run(recipe, tmp_path, [generated("cup", images, [mask] * 3)])
    for found in scores["cup-s0"].images:
        assert found.identity_masked == 1.0
        assert found.identity < 0.99999


def test_another_object_in_the_same_place_has_the_same_context(recipe, tmp_path):
    rng = np.random.default_rng(3)
    scene, mask = rng.integers(0, 255, (32, 32, 3), np.uint8), np.zeros((32, 32), bool)
    mask[8:24, 8:24] = True
    images = [np.where(mask[..., None], rng.integers(0, 255, (32, 32, 3), np.uint8), scene) for _ in range(3)]
    scores, _ = run(recipe, tmp_path, [generated("cup", images, [mask] * 3)])
    for found in scores["cup-s0"].images:
        assert found.background == 1.0 and found.identity_masked < 0.99999


def test_scores_do_not_depend_on_how_sets_are_sharded_or_batched(recipe, tmp_path):
    sets = [random_set(name, seed) for seed, name in enumerate(("bowl", "cup", "jug", "mug", "pan"))]
    one, index = run(recipe, tmp_path / "a", sets)
    assert [entry.keys for entry in index.shards] == [["bowl-s0", "cup-s0"], ["jug-s0", "mug-s0"], ["pan-s0"]]
    small = recipe.model_copy(update={"score": recipe.score.model_copy(update={"batch_images": 4, "shard_size": 5})})
    other, _ = run(small, tmp_path / "b", sets)
    for key, record in one.items():
        for found, expected in zip(other[key].images, record.images, strict=True):
            assert found.model_dump() == pytest.approx(expected.model_dump(), abs=2e-6)


def test_a_second_run_gives_the_same_bytes(recipe, tmp_path):
    sets = [random_set(name, seed) for seed, name in enumerate(("bowl", "cup"))]
    _, first = run(recipe, tmp_path / "a", sets)
    _, second = run(recipe, tmp_path / "b", sets)
    assert [entry.sha256 for entry in first.shards] == [entry.sha256 for entry in second.shards]


def test_an_image_goes_with_its_own_prompt(recipe, tmp_path):
    key, record, files = random_set("cup", 0)
    turned = [sample.model_copy(update={"prompt": PROMPTS[sample.index - 1]}) for sample in record.samples]
    scores, _ = run(recipe, tmp_path / "a", [(key, record, files)])
    swapped, _ = run(recipe, tmp_path / "b", [(key, record.model_copy(update={"samples": turned}), files)])
    for found, expected in zip(swapped[key].images, scores[key].images, strict=True):
        assert found.clip_text != expected.clip_text
        assert found.model_dump(exclude={"clip_text"}) == expected.model_dump(exclude={"clip_text"})


def without_mask(name, seed, *places):
    key, record, files = random_set(name, seed)
    _, _, blank = generated(name, np.zeros((1, 32, 32, 3), np.uint8), np.zeros((1, 32, 32), bool))
    return key, record, {**files, **{f"{place}.mask.png": blank["0.mask.png"] for place in places}}


def test_an_image_without_object_is_far_from_the_others_and_changes_nothing_between_them(recipe, tmp_path):
    whole, _ = run(recipe, tmp_path / "a", [random_set("bowl", 0), random_set("jug", 2)])
    sets = [without_mask("bowl", 0, 1), random_set("jug", 2)]
    scores, index = run(recipe, tmp_path / "b", sets)
    assert not index.failed
    pairs, expected = (np.array(own["bowl-s0"].identity_pairs) for own in (scores, whole))
    assert (pairs[1, [0, 2]] == -1).all() and (pairs[[0, 2], 1] == -1).all()
    assert pairs[0, 2] == pytest.approx(expected[0, 2], abs=2e-6)
    first, second, third = scores["bowl-s0"].images
    assert (second.area, second.identity, second.identity_masked) == (0, -1, -1)
    assert first.identity == third.identity == pytest.approx(pairs[0, 2], abs=2e-6)
    assert scores["jug-s0"].model_dump() == whole["jug-s0"].model_dump()


def test_a_set_of_one_is_recorded_and_one_without_any_object_is_scored(recipe, tmp_path):
    sets = [without_mask("bowl", 0, 0, 1, 2), random_set("cup", 1, count=1), without_mask("jug", 2, 0, 1)]
    scores, index = run(recipe, tmp_path, sets)
    assert [(failure.key, failure.reason) for failure in index.failed] == [("cup-s0", "single_image")]
    assert [image.identity for image in scores["bowl-s0"].images] == [-1, -1, -1]
    assert [image.identity for image in scores["jug-s0"].images] == [-1, -1, -1]


@pytest.mark.parametrize("bad", [float("nan"), 31.0])
def test_a_score_out_of_range_is_a_recorded_failure(recipe, tmp_path, bad):
    head = QualityHead(tiny_models.EMBEDDING)
    with torch.no_grad():
        head.layers[0].bias.fill_(bad)
    save_quality_head(head, tmp_path / "head")
    ref = tiny_models.ref_of(tmp_path / "head", "quality_head")
    broken = recipe.model_copy(update={"models": recipe.models.model_copy(update={"quality": ref})})
    scores, index = run(broken, tmp_path, [random_set("cup", 0)])
    assert not scores
    assert [failure.reason for failure in index.failed] == ["score_out_of_range"]
    assert "quality" in index.failed[0].detail


def test_summary_names_the_models_and_describes_the_scores(recipe, tmp_path):
    scores, index = run(recipe, tmp_path, [random_set("cup", 0), random_set("jug", 1)])
    quality = [image.quality for record in scores.values() for image in record.images]
    assert index.summary["sets"] == 2 and index.summary["images"] == 6
    assert index.summary["mean"]["quality"] == pytest.approx(np.mean(quality), abs=1e-4)
    assert index.summary["std"]["quality"] == pytest.approx(np.std(quality), abs=1e-4)
    assert index.summary["models"]["clip"] == f"tiny-clip@{recipe.models.clip.revision}"
