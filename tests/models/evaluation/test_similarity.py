import numpy as np
import pytest
import tiny_models
import torch

from models.evaluation.similarity import diversity, embed_contexts, mean_cosine, nearest_cosine
from models.scorers.identity import IdentityScorer

REFERENCES = np.array([[1, 0], [0.6, 0.8]], dtype=np.float32)


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> IdentityScorer:
    torch.set_num_threads(1)
    folder = tiny_models.identity_folder(tmp_path_factory.mktemp("models") / "dino")
    return IdentityScorer.from_pretrained(folder, "cpu", torch.float32)


def test_cosines_are_to_the_images_own_references() -> None:
    embedded = np.array([[1, 0], [0, 1]], dtype=np.float32)
    own = [REFERENCES, REFERENCES[1:]]
    np.testing.assert_allclose(mean_cosine(embedded, own), [0.8, 0.8], atol=1e-6)
    np.testing.assert_allclose(nearest_cosine(embedded, own), [1.0, 0.8], atol=1e-6)


def scene(seed: int, colour: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    image = np.random.default_rng(seed).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    mask = np.zeros((28, 28), dtype=bool)
    mask[8:20, 8:20] = True
    image[mask] = colour
    return image, mask


def test_copy_paste_is_one_for_the_same_background_whatever_the_object(identity: IdentityScorer) -> None:
    references = [scene(0, (200, 0, 0)), scene(1, (200, 0, 0))]
    behind = embed_contexts(identity, *map(list, zip(*references, strict=True)), 8)
    pasted, fresh = scene(1, (0, 0, 200)), scene(2, (200, 0, 0))
    found = nearest_cosine(embed_contexts(identity, [pasted[0], fresh[0]], [pasted[1], fresh[1]], 8), [behind] * 2)
    assert found[0] == pytest.approx(1, abs=1e-6), "another object before the second reference's background"
    assert found[1] < 0.999, "the same object before a background of its own"


def test_an_image_without_object_is_taken_as_it_is(identity: IdentityScorer) -> None:
    image, _ = scene(0, (200, 0, 0))
    nothing = np.zeros((28, 28), dtype=bool)
    np.testing.assert_array_equal(embed_contexts(identity, [image], [nothing], 8), identity.embed([image], None))


def test_diversity_is_within_a_group_and_none_for_one_alone() -> None:
    embedded = np.array([[1, 0], [0, 1], [1, 0], [0.6, 0.8], [1, 0]], dtype=np.float32)
    found = diversity(embedded, ["a", "a", "a", "b", "b"])
    assert found == pytest.approx([0.5, 1.0, 0.5, 0.4, 0.4], abs=1e-6)
    assert diversity(embedded[:2], ["a", "b"]) == [None, None]


def test_equal_images_have_no_diversity(identity: IdentityScorer) -> None:
    constant = np.full((28, 28, 3), 128, dtype=np.uint8)
    found = diversity(identity.embed([constant, constant], None), ["a", "a"])
    assert found == pytest.approx([0, 0], abs=1e-6)
