"""Scorers load from standard folders and give what their definitions say."""

import json

import numpy as np
import pytest
import tiny_models
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, CLIPModel

from models.scorers.clip import ClipScorer
from models.scorers.identity import IdentityScorer
from models.scorers.pairs import cosine_pairs, mean_of_others
from models.scorers.quality import QualityHead, QualityScorer, save_quality_head
from models.scorers.segmenter import Segmenter

CPU = ("cpu", torch.float32)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("models")
    return {
        "clip": tiny_models.clip_folder(root / "clip"),
        "dino": tiny_models.identity_folder(root / "dino"),
        "dino_registers": tiny_models.identity_folder(root / "dino_registers", registers=True),
        "segmenter": tiny_models.segmenter_folder(root / "segmenter"),
    }


@pytest.fixture(scope="module")
def clip(folders):
    return ClipScorer.from_pretrained(folders["clip"], *CPU)


@pytest.fixture(scope="module")
def identity(folders):
    return IdentityScorer.from_pretrained(folders["dino"], *CPU)


def pictures(count, size=40, seed=0):
    return list(np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8))


def box_masks(count, size=40):
    masks = np.zeros((count, size, size), bool)
    masks[:, 10:30, 12:25] = True
    return list(masks)


def test_clip_embeddings_are_the_projections_of_the_model_scaled_to_length_one(folders, clip):
    image = pictures(1, size=32)[0]
    model = CLIPModel.from_pretrained(folders["clip"]).eval()
    config = json.loads((folders["clip"] / "preprocessor_config.json").read_text())
    values = (image / 255 - config["image_mean"]) / config["image_std"]
    batch = torch.tensor(values, dtype=torch.float32).permute(2, 0, 1)[None]
    expected = model.visual_projection(model.vision_model(batch).pooler_output)[0].detach().numpy()
    np.testing.assert_allclose(clip.embed_images([image])[0], expected / np.linalg.norm(expected), atol=1e-5)


def test_embeddings_do_not_depend_on_the_batch(clip, identity):
    images, masks = pictures(5), box_masks(5)
    np.testing.assert_allclose(clip.embed_images(images, batch=2), clip.embed_images(images), atol=1e-6)
    embedded = identity.embed(images, masks)
    np.testing.assert_allclose(identity.embed(images, masks, batch=2), embedded, atol=1e-6)
    texts = ["a red mug", "a green chair next to a blue ball on the beach"]
    np.testing.assert_allclose(clip.embed_texts(texts)[0], clip.embed_texts(texts[:1])[0], atol=1e-6)


def test_text_longer_than_the_model_takes_is_cut(clip):
    long = "red " * 40
    np.testing.assert_allclose(clip.embed_texts([long]), clip.embed_texts([long + "chair"]), atol=1e-6)


def test_facts_are_answered_by_the_most_similar_choice(clip):
    image = pictures(1)[0]
    choices = ["a red mug", "a blue chair", "a green ball"]
    similarity = clip.embed_texts(choices) @ clip.embed_images([image])[0]
    best, worst = choices[similarity.argmax()], choices[similarity.argmin()]
    right = {"question": "what is it", "choices": choices, "answer": best}
    wrong = {"question": "what is it", "choices": choices, "answer": worst}
    assert clip.answer_facts(image, [right]) == 1.0
    assert clip.answer_facts(image, [right, wrong, wrong, right]) == 0.5
    assert clip.answer_facts(image, [wrong]) == 0.0


def test_facts_that_cannot_be_answered_are_refused(clip):
    image = pictures(1)[0]
    with pytest.raises(ValueError, match="no facts"):
        clip.answer_facts(image, [])
    with pytest.raises(ValueError, match="'a cup' is not in"):
        clip.answer_facts(image, [{"question": "q", "choices": ["a mug"], "answer": "a cup"}])


def test_identity_is_the_class_token_of_the_processed_crop(folders, identity):
    image, mask = pictures(1)[0], np.zeros((40, 40), bool)
    mask[4:36, 4:36] = True
    model = AutoModel.from_pretrained(folders["dino"]).eval()
    config = json.loads((folders["dino"] / "preprocessor_config.json").read_text())
    inner = image[4:36, 4:36][2:30, 2:30]
    values = torch.tensor((inner / 255 - config["image_mean"]) / config["image_std"], dtype=torch.float32)
    token = model(values.permute(2, 0, 1)[None]).last_hidden_state[0, 0].detach().numpy()
    np.testing.assert_allclose(identity.embed([image], [mask])[0], token / np.linalg.norm(token), atol=1e-5)


def test_identical_objects_on_different_backgrounds_have_masked_identity_one(identity):
    one, other = pictures(2)
    mask = box_masks(1)[0]
    other[mask] = one[mask]
    masked = identity.embed([one, other], [mask, mask], background=False)
    assert masked[0] @ masked[1] == pytest.approx(1.0, abs=1e-6)
    with_background = identity.embed([one, other], [mask, mask], background=True)
    assert with_background[0] @ with_background[1] < 1 - 1e-5


def test_identity_ignores_where_in_the_frame_the_object_is(identity):
    rng = np.random.default_rng(0)
    patch = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    images, masks = [], []
    for row, column in ((2, 3), (20, 21)):
        image, mask = np.full((40, 40, 3), 90, np.uint8), np.zeros((40, 40), bool)
        image[row : row + 16, column : column + 16] = patch
        mask[row : row + 16, column : column + 16] = True
        images.append(image)
        masks.append(mask)
    embedded = identity.embed(images, masks)
    assert embedded[0] @ embedded[1] == pytest.approx(1.0, abs=1e-6)


def test_dinov2_with_registers_loads_from_its_own_config(folders):
    scorer = IdentityScorer.from_pretrained(folders["dino_registers"], *CPU)
    assert type(scorer.model).__name__ == "Dinov2WithRegistersModel"
    lengths = np.linalg.norm(scorer.embed(pictures(2), None), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-6)


def test_background_cannot_be_removed_without_masks(identity):
    with pytest.raises(ValueError, match="no masks"):
        identity.embed(pictures(1), None, background=False)


def test_pairwise_cosines_and_means_against_loops():
    rows = np.random.default_rng(0).normal(size=(4, 6))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    pairs = cosine_pairs(rows.astype(np.float32))
    for i in range(4):
        for j in range(4):
            expected = 1.0 if i == j else sum(a * b for a, b in zip(rows[i], rows[j], strict=True))
            assert pairs[i, j] == pytest.approx(expected, abs=1e-6)
        rest = [pairs[i, j] for j in range(4) if j != i]
        assert mean_of_others(pairs)[i] == pytest.approx(sum(rest) / 3)
    assert (cosine_pairs(np.stack([rows[0], rows[0]])) == 1).all()


def test_similarity_to_the_rest_of_a_set_of_one_is_an_error():
    with pytest.raises(ValueError, match="a set of 1"):
        mean_of_others(np.ones((1, 1)))


def test_a_linear_quality_head_of_laion_form_is_weights_times_embedding_plus_bias(tmp_path):
    head = QualityHead(768)
    weight, bias = head.layers[0].weight.detach().numpy(), head.layers[0].bias.detach().numpy()
    save_quality_head(head, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == {"in_dim": 768, "hidden": [], "activation": "none"}
    embeddings = np.random.default_rng(0).normal(size=(3, 768)).astype(np.float32)
    scores = QualityScorer.from_pretrained(tmp_path, *CPU).scores(embeddings)
    np.testing.assert_allclose(scores, embeddings @ weight[0] + bias[0], atol=1e-4)


def test_the_file_that_laion_publishes_is_read_as_it_is(tmp_path):
    torch.manual_seed(0)
    published = torch.nn.Sequential(
        torch.nn.Linear(768, 1024),
        torch.nn.Dropout(0.2),
        torch.nn.Linear(1024, 128),
        torch.nn.Dropout(0.2),
        torch.nn.Linear(128, 64),
        torch.nn.Dropout(0.1),
        torch.nn.Linear(64, 16),
        torch.nn.Linear(16, 1),
    ).eval()
    state = {f"layers.{name}": value for name, value in published.state_dict().items()}
    torch.save(state, tmp_path / "sac+logos+ava1-l14-linearMSE.pth")
    embeddings = torch.nn.functional.normalize(torch.randn(5, 768), dim=-1)
    scorer = QualityScorer.from_pretrained(tmp_path, "cpu", torch.float32)
    assert scorer.head.hidden == (1024, 128, 64, 16)
    np.testing.assert_allclose(scorer.scores(embeddings.numpy()), published(embeddings)[:, 0].detach(), rtol=1e-5)


def test_another_pth_file_is_no_quality_head(tmp_path):
    torch.save({"weight": torch.zeros(1, 768)}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"model\.pth: holds \['weight'\], no linear layers called layers\.N"):
        QualityScorer.from_pretrained(tmp_path, "cpu", torch.float32)


def test_a_deep_quality_head_applies_its_activation_between_layers(tmp_path):
    head = QualityHead(4, hidden=(3,), activation="relu")
    save_quality_head(head.half(), tmp_path)
    first, second = (layer.float() for layer in head.layers)
    values = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    hidden = np.maximum(values @ first.weight.detach().numpy().T + first.bias.detach().numpy(), 0)
    expected = hidden @ second.weight.detach().numpy()[0] + second.bias.detach().numpy()[0]
    np.testing.assert_allclose(QualityScorer.from_pretrained(tmp_path, *CPU).scores(values), expected, atol=1e-5)


def test_a_quality_head_for_another_clip_is_refused(tmp_path):
    save_quality_head(QualityHead(4), tmp_path)
    with pytest.raises(ValueError, match=r"expected \(N, 4\)"):
        QualityScorer.from_pretrained(tmp_path, *CPU).scores(np.zeros((2, 5), np.float32))


def test_quality_config_and_weights_must_belong_together(tmp_path):
    save_quality_head(QualityHead(4), tmp_path)
    (tmp_path / "config.json").write_text('{"in_dim": 5}')
    with pytest.raises(ValueError, match="do not match"):
        QualityScorer.from_pretrained(tmp_path, *CPU)


def test_masks_have_the_size_of_their_image_and_follow_the_logits(folders):
    segmenter = Segmenter.from_pretrained(folders["segmenter"], *CPU)
    images = [pictures(1, size=40)[0], pictures(1, size=48)[0][:30]]
    masks = segmenter.masks(images)
    assert [mask.shape for mask in masks] == [(40, 40), (30, 48)]
    assert all(mask.dtype == bool for mask in masks)
    for value in (0, 1):
        with torch.no_grad():
            segmenter.model.decode_head.classifier.bias.copy_(torch.tensor([-100.0, 100.0]) * (1 if value else -1))
        assert all(mask.all() == bool(value) and mask.any() == bool(value) for mask in segmenter.masks(images))


def test_a_segmenter_without_a_background_class_is_refused(folders, tmp_path):
    for path in folders["segmenter"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes().replace(b'"background"', b'"sky"'))
    with pytest.raises(ValueError, match="no class is called 'background'"):
        Segmenter.from_pretrained(tmp_path, *CPU)


def test_missing_weights_are_an_error_and_not_random_numbers(folders, tmp_path):
    for path in folders["dino"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("layernorm.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"layernorm\.weight"):
        IdentityScorer.from_pretrained(tmp_path, *CPU)
