from typing import Any

import numpy as np
import pytest

from models.evaluation.metrics import clip_scores, identity_scores, image_metrics, objects_found, text_scores
from models.scorers.clip import ClipScorer
from models.scorers.frame import clipped_share, saturation


def solid(*colour: int) -> np.ndarray:
    return np.full((4, 4, 3), colour, dtype=np.uint8)


class ColourIdentity:
    """Embeds the mean colour of the object pixels, as a unit vector."""

    def embed(self, images: Any, masks: Any, background: bool, batch: int) -> np.ndarray:
        assert not background
        rows = np.stack([image[mask].mean(axis=0) for image, mask in zip(images, masks, strict=True)])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def not_black(images: list[np.ndarray]) -> list[np.ndarray]:
    return [image.any(axis=2) for image in images]


def test_identity_is_the_mean_cosine_of_the_masked_object_and_zero_where_there_is_none() -> None:
    half_red = np.zeros((4, 4, 3), dtype=np.uint8)
    half_red[:2] = (200, 0, 0)
    images = [half_red, solid(0, 0, 0), solid(0, 90, 0)]
    references = np.array([[1, 0, 0], [0, 1, 0], [0.6, 0.8, 0]], dtype=np.float32)
    scores, found = identity_scores(ColourIdentity(), images, not_black(images), [references] * 3, 8)
    np.testing.assert_allclose(scores, [1.6 / 3, 0, 1.8 / 3], atol=1e-6)
    assert found.tolist() == [True, False, True]


def test_an_image_of_the_reference_itself_has_identity_one_and_without_its_object_none() -> None:
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    image[2:6, 2:6] = (20, 130, 60)
    mask = image.any(axis=2)
    reference = ColourIdentity().embed([image], [mask], background=False, batch=1)
    gone = np.where(mask[..., None], np.uint8(0), image)
    scores, found = identity_scores(ColourIdentity(), [image, gone], not_black([image, gone]), [reference] * 2, 8)
    np.testing.assert_allclose(scores, [1, 0], atol=1e-6)
    assert found.tolist() == [True, False]
    assert image_metrics(gone, scores[1], 1.0, found[1], {}).geometric == 0


def test_specks_are_no_object() -> None:
    mask = np.zeros((64, 64), dtype=bool)
    mask[:2, :10] = True
    assert objects_found([mask, np.pad(mask[:3, :11], ((0, 61), (0, 53)))]).tolist() == [False, False]
    mask[2, 0] = True
    assert objects_found([mask]).tolist() == [True]


class WordClip(ClipScorer):
    """Images are told by their red channel; texts by their length."""

    def __init__(self) -> None:
        """No model."""

    def embed_images(self, images: Any, batch: int) -> np.ndarray:
        angles = np.array([image[0, 0, 0] / 255 for image in images])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    def embed_texts(self, texts: Any, batch: int) -> np.ndarray:
        return np.array([[1.0, 0.0] if text == "one" else [0.0, 1.0] for text in texts], dtype=np.float32)

    def answer_facts(self, image: np.ndarray, facts: list[dict[str, Any]]) -> float:
        return sum(fact["answer"] == int(image[0, 0, 0]) for fact in facts) / len(facts)


def test_text_scores_pair_every_image_with_its_own_prompt_and_facts() -> None:
    images = [solid(255, 0, 0), solid(0, 0, 0)]
    cosines = text_scores(WordClip(), "clip_score", images, ["one", "other"], [[], []], 8)
    np.testing.assert_allclose(cosines, [np.cos(1), 0], atol=1e-6)
    facts = [[{"answer": 255}, {"answer": 1}], [{"answer": 0}]]
    assert text_scores(WordClip(), "clip_facts", images, ["", ""], facts, 8).tolist() == [0.5, 1.0]


def test_shuffled_captions_score_lower() -> None:
    images, prompts = [solid(0, 0, 0), solid(255, 0, 0)], ["one", "other"]
    own = clip_scores(WordClip(), images, prompts, 8)
    shuffled = clip_scores(WordClip(), images, prompts[::-1], 8)
    assert (own > shuffled + 0.3).all()


def test_a_metric_is_answered_by_its_own_model() -> None:
    with pytest.raises(ValueError, match="text metric tifa cannot be answered by WordClip"):
        text_scores(WordClip(), "tifa", [solid(0, 0, 0)], ["one"], [[]], 8)


def test_a_constant_image_is_neither_saturated_nor_clipped() -> None:
    metrics = image_metrics(solid(128, 128, 128), 0.0, 0.5, False, {"diversity": 0.0})
    assert (metrics.saturation, metrics.clipped, metrics.geometric, metrics.diversity) == (0, 0, 0, 0)


def test_saturation_and_clipping_of_known_pictures() -> None:
    assert saturation(solid(100, 100, 100)) == 0
    assert saturation(solid(200, 100, 100)) == pytest.approx(0.5)
    assert saturation(solid(0, 0, 0)) == 0
    assert saturation(solid(255, 0, 0)) == 1
    assert clipped_share(solid(255, 0, 100)) == pytest.approx(2 / 3)


def test_the_geometric_mean_is_of_this_image_and_counts_negatives_as_zero() -> None:
    assert image_metrics(solid(9, 9, 9), 0.49, 0.64, True, {}).geometric == pytest.approx(0.56)
    assert image_metrics(solid(9, 9, 9), -0.3, 0.64, True, {}).geometric == 0
    assert image_metrics(solid(9, 9, 9), -0.3, 0.64, True, {}).identity == -0.3
    assert image_metrics(solid(9, 9, 9), -0.3, -0.5, True, {}).geometric == 0


@pytest.mark.parametrize("bad", [float("nan"), 1.5, -2.0])
def test_a_score_out_of_range_is_an_error(bad: float) -> None:
    with pytest.raises(ValueError, match="identity score is"):
        image_metrics(solid(9, 9, 9), bad, 0.5, True, {})
    with pytest.raises(ValueError, match="text score is"):
        image_metrics(solid(9, 9, 9), 0.5, bad, True, {})
    with pytest.raises(ValueError, match="copy_paste score is"):
        image_metrics(solid(9, 9, 9), 0.5, 0.5, True, {"copy_paste": bad})


def test_what_was_not_asked_for_is_none() -> None:
    metrics = image_metrics(solid(9, 9, 9), 0.5, 0.5, True, {"clip_i": 0.25, "diversity": None})
    assert (metrics.clip_i, metrics.diversity, metrics.dino) == (0.25, None, None)
