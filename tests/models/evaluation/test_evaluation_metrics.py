from typing import Any

import numpy as np
import pytest

from models.evaluation.metrics import identity_scores, image_metrics, text_scores
from models.scorers.frame import clipped_share, saturation


def solid(*colour: int) -> np.ndarray:
    return np.full((4, 4, 3), colour, dtype=np.uint8)


class ColourIdentity:
    """Embeds the mean colour of the object pixels, as a unit vector."""

    def embed(self, images: Any, masks: Any, background: bool, batch: int) -> np.ndarray:
        assert not background
        rows = np.stack([image[mask].mean(axis=0) for image, mask in zip(images, masks, strict=True)])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


class NotBlackSegmenter:
    def masks(self, images: Any, batch: int) -> list[np.ndarray]:
        return [image.any(axis=2) for image in images]


def test_identity_is_the_mean_cosine_of_the_masked_object_and_zero_where_there_is_none() -> None:
    half_red = np.zeros((4, 4, 3), dtype=np.uint8)
    half_red[:2] = (200, 0, 0)
    references = np.array([[1, 0, 0], [0, 1, 0], [0.6, 0.8, 0]], dtype=np.float32)
    scores, found = identity_scores(
        ColourIdentity(), NotBlackSegmenter(), [half_red, solid(0, 0, 0), solid(0, 90, 0)], [references] * 3, 8
    )
    np.testing.assert_allclose(scores, [1.6 / 3, 0, 1.8 / 3], atol=1e-6)
    assert found.tolist() == [True, False, True]


class WordClip:
    """Images are told by their red channel; texts by their length."""

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


def test_saturation_and_clipping_of_known_pictures() -> None:
    assert saturation(solid(100, 100, 100)) == 0
    assert saturation(solid(200, 100, 100)) == pytest.approx(0.5)
    assert saturation(solid(0, 0, 0)) == 0
    assert saturation(solid(255, 0, 0)) == 1
    assert clipped_share(solid(255, 0, 100)) == pytest.approx(2 / 3)


def test_the_geometric_mean_is_of_this_image_and_counts_negatives_as_zero() -> None:
    assert image_metrics(solid(9, 9, 9), 0.49, 0.64, True).geometric == pytest.approx(0.56)
    assert image_metrics(solid(9, 9, 9), -0.3, 0.64, True).geometric == 0
    assert image_metrics(solid(9, 9, 9), -0.3, 0.64, True).identity == -0.3
    assert image_metrics(solid(9, 9, 9), -0.3, -0.5, True).geometric == 0


@pytest.mark.parametrize("bad", [float("nan"), 1.5, -2.0])
def test_a_score_out_of_range_is_an_error(bad: float) -> None:
    with pytest.raises(ValueError, match="identity score is"):
        image_metrics(solid(9, 9, 9), bad, 0.5, True)
    with pytest.raises(ValueError, match="text score is"):
        image_metrics(solid(9, 9, 9), 0.5, bad, True)
