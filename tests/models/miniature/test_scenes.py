"""Backdrops, props and compositing: repeatable, distinct, varied, and faithful to the object's pixels."""

import itertools

import numpy as np
import pytest

from models.miniature.scenes import (
    OTHER_OBJECTS,
    SCENES,
    composite,
    full_caption,
    paint_scene,
    scene_phrase,
)


def _rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("size", [32, 64, 96])
def test_scene_fills_any_size_and_repeats_for_a_seed(scene, size):
    picture = paint_scene(scene, size, _rng(7))
    assert picture.shape == (size, size, 3)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture, paint_scene(scene, size, _rng(7)))


@pytest.mark.parametrize("scene", SCENES)
def test_scene_varies_with_the_seed(scene):
    pictures = [paint_scene(scene, 64, _rng(seed)).astype(int) for seed in range(6)]
    for first, second in itertools.combinations(pictures, 2):
        assert np.abs(first - second).mean() > 2


def test_scenes_are_told_apart_by_their_thumbnails():
    """Nearest mean thumbnail over 8 x 8 pixels names the scene of unseen pictures."""

    def thumbnail(scene: str, seed: int) -> np.ndarray:
        picture = paint_scene(scene, 64, _rng(seed)).astype(float)
        return picture.reshape(8, 8, 8, 8, 3).mean((1, 3)).ravel()

    means = np.stack([np.mean([thumbnail(scene, seed) for seed in range(6)], axis=0) for scene in SCENES])
    for index, scene in enumerate(SCENES):
        for seed in range(100, 110):
            distances = np.linalg.norm(means - thumbnail(scene, seed), axis=1)
            assert distances.argmin() == index, (scene, seed)


@pytest.mark.parametrize("other", OTHER_OBJECTS)
def test_prop_changes_one_side_of_the_ground_only(other):
    sides = set()
    for seed in range(12):
        bare = paint_scene("garden", 64, _rng(seed)).astype(int)
        changed = np.abs(paint_scene("garden", 64, _rng(seed), other).astype(int) - bare).sum(-1) > 0
        columns, rows = np.flatnonzero(changed.any(0)), np.flatnonzero(changed.any(1))
        assert changed.sum() > 60
        assert columns.max() < 32 or columns.min() >= 32
        assert rows.min() > 64 * 0.4
        sides.add(bool(columns.min() >= 32))
    assert sides == {True, False}


def test_unknown_scene_or_prop_is_named_in_the_error():
    with pytest.raises(ValueError, match="volcano"):
        paint_scene("volcano", 64, _rng(0))
    with pytest.raises(ValueError, match="a green hat"):
        paint_scene("beach", 64, _rng(0), "a green hat")
    with pytest.raises(ValueError, match="a green hat"):
        full_caption("a mug", "beach", "a green hat")


def test_full_caption_places_the_object():
    assert full_caption("a striped mug", "beach") == "a striped mug on a beach"
    assert full_caption("a mug", "beach", "a red ball") == "a mug next to a red ball on a beach"
    assert len({scene_phrase(scene) for scene in SCENES}) == len(SCENES)


def _square() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mask = np.zeros((64, 64), bool)
    mask[20:50, 22:42] = True
    return np.full((64, 64, 3), (200, 30, 40), np.uint8), mask, np.full((64, 64, 3), 180, np.uint8)


def test_composite_keeps_object_pixels_and_darkens_only_the_ground_beneath():
    rgb, mask, background = _square()
    result = composite(rgb, mask, background)
    assert (result[mask] == rgb[mask]).all()
    assert (result[~mask] <= background[~mask]).all()
    assert result[51, 32].max() < 160
    np.testing.assert_array_equal(result[:30][~mask[:30]], background[:30][~mask[:30]])
    assert (background == 180).all()


def test_composite_blends_a_fractional_edge():
    rgb, mask, background = _square()
    cover = mask.astype(np.float32)
    cover[25, 42] = 0.5
    assert composite(rgb, cover, background)[25, 42].tolist() == [190, 105, 110]


def test_composite_of_an_empty_mask_is_the_background():
    rgb, mask, background = _square()
    result = composite(rgb, np.zeros_like(mask), background)
    np.testing.assert_array_equal(result, background)
    assert result is not background


def test_composite_refuses_other_shapes():
    rgb, mask, background = _square()
    with pytest.raises(ValueError, match="32"):
        composite(rgb, mask[:32], background)
