"""Named objects are found and cut out: boxes in pixels, the best one by score, masks of the image's size."""

import numpy as np
import pytest
import tiny_models
import torch
from transformers import GroundingDinoForObjectDetection

from models.scorers.detector import Detection, Detector
from models.scorers.grounded import BoxSegmenter, GroundedSegmenter

CPU = ("cpu", torch.float32)
WIDE, TALL = (40, 52), (48, 32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.set_num_threads(1)
    return tiny_models.detector_folder(tmp_path_factory.mktemp("models") / "detector")


@pytest.fixture(scope="module")
def detector(folder):
    return Detector.from_pretrained(folder, *CPU)


@pytest.fixture(scope="module")
def sam(tmp_path_factory):
    return BoxSegmenter.from_pretrained(tiny_models.sam_folder(tmp_path_factory.mktemp("models") / "sam"), *CPU)


def picture(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def by_hand(folder, detector, image, phrase):
    """Best box of the bare model, its centre form turned into pixels here."""
    model = GroundingDinoForObjectDetection.from_pretrained(folder).eval()
    words = detector.tokenizer([phrase], return_tensors="pt")
    seen = detector.processor(images=[image], input_data_format="channels_last", return_tensors="pt")
    with torch.no_grad():
        output = model(pixel_values=seen["pixel_values"], input_ids=words["input_ids"])
    scores = torch.sigmoid(output.logits[0]).max(dim=1).values
    best = int(scores.argmax())
    x, y, w, h = output.pred_boxes[0, best].tolist()
    height, width = image.shape[:2]
    corners = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
    return np.clip(corners, 0, (width, height, width, height)), float(scores[best])


@pytest.mark.parametrize("size", [WIDE, TALL])
def test_the_best_box_is_given_in_pixels_of_the_image(folder, detector, size):
    image = picture(size)
    (found,) = detector.detect([image], ["A Red Mug"], 0.0)
    box, score = by_hand(folder, detector, image, "a red mug.")
    np.testing.assert_allclose(found.box, box, atol=1e-3)
    assert found.score == pytest.approx(score, abs=1e-5)


def test_neighbours_of_other_sizes_and_phrases_change_nothing(detector):
    images = [picture(WIDE), picture(TALL, 1), picture(WIDE, 2), picture(WIDE, 3)]
    phrases = ["mug", "mug", "a red ball on the beach", "mug"]
    together = detector.detect(images, phrases, 0.0, batch=2)
    for image, phrase, found in zip(images, phrases, together, strict=True):
        (alone,) = detector.detect([image], [phrase], 0.0)
        np.testing.assert_allclose(found.box, alone.box, atol=1e-3)
        assert found.score == pytest.approx(alone.score, abs=1e-5)
    assert len({found.box for found in together}) == 4


def test_what_scores_no_higher_than_the_threshold_is_not_found(detector):
    image = picture(WIDE)
    (found,) = detector.detect([image], ["mug"], 0.0)
    assert detector.detect([image], ["mug"], found.score) == [None]


def test_an_object_without_name_is_refused(detector):
    with pytest.raises(ValueError, match=r"image 0: the phrase to look for is ' \.'"):
        detector.detect([picture(WIDE)], [" ."], 0.2)


def test_boxes_reach_sam_in_the_pixels_that_it_sees(sam):
    given = []
    hook = sam.model.register_forward_pre_hook(lambda _, __, named: given.append(named), with_kwargs=True)
    sam.masks([picture(WIDE), picture(TALL)], [(13, 10, 26, 40), (8, 12, 32, 48)])
    hook.remove()
    # Longest side 64: 40 x 52 becomes 49 x 64, 48 x 32 becomes 64 x 43.
    expected = [[13 * 64 / 52, 10 * 49 / 40, 26 * 64 / 52, 49], [8 * 43 / 32, 16, 43, 64]]
    np.testing.assert_allclose(given[0]["input_boxes"][:, 0], expected, atol=1e-4)
    assert given[0]["multimask_output"] is False


def test_masks_have_the_size_of_their_image_and_do_not_depend_on_the_batch(sam):
    images, boxes = [picture(WIDE), picture(TALL, 1), picture(WIDE, 2)], [(3, 4, 20, 30)] * 3
    masks = sam.masks(images, boxes, batch=2)
    assert [mask.shape for mask in masks] == [WIDE, TALL, WIDE]
    assert all(mask.dtype == bool and 0 < mask.mean() < 1 for mask in masks)
    for image, box, mask in zip(images, boxes, masks, strict=True):
        np.testing.assert_array_equal(sam.masks([image], [box])[0], mask)


class Known:
    """Finds the brightest pixel's image and nothing in dark ones."""

    def detect(self, images, phrases, threshold, batch):
        assert threshold == 0.3
        return [Detection((1.0, 2.0, 3.0, 4.0), 0.9) if image.max() > 9 else None for image in images]


class Filling:
    def masks(self, images, boxes, batch):
        assert boxes == [(1.0, 2.0, 3.0, 4.0)] * len(images)
        return [np.ones(image.shape[:2], dtype=bool) for image in images]


def test_an_object_that_is_not_found_has_an_empty_mask_in_its_own_place():
    images = [np.zeros((*TALL, 3), np.uint8), picture(WIDE), np.zeros((*WIDE, 3), np.uint8)]
    masks = GroundedSegmenter(Known(), Filling(), 0.3).masks(images, ["mug"] * 3)
    assert [mask.shape for mask in masks] == [TALL, WIDE, WIDE]
    assert [bool(mask.any()) for mask in masks] == [False, True, False]


def test_detector_and_sam_work_together_and_none_found_is_no_error(detector, sam):
    image = picture(WIDE)
    (found,) = detector.detect([image], ["mug"], 0.0)
    (mask,) = GroundedSegmenter(detector, sam, 0.0).masks([image], ["mug"])
    np.testing.assert_array_equal(mask, sam.masks([image], [found.box])[0])
    (nothing,) = GroundedSegmenter(detector, sam, 1.0).masks([image], ["mug"])
    assert nothing.shape == WIDE and not nothing.any()
