"""Small generated sets, as the generate stage leaves them."""

import numpy as np

from data.ids import sample_id_of, set_id_of
from data.images import encode_png
from data.records import GeneratedRecord, ImageScores, SampleRecord, ScoreRecord

PROMPTS = ("a red mug on the beach", "a red mug in snow", "a red mug next to a blue ball")


def generated(object_id, images, masks, split="train", mesh_sha256="0" * 64, licence="CC0-1.0"):
    """(key, record, files) of one set from uint8 (K, H, W, 3) and bool (K, H, W)."""
    set_id = set_id_of(object_id, 0)
    record = GeneratedRecord(
        set_id=set_id,
        object_id=object_id,
        split=split,
        category="mug",
        caption="a red mug",
        licence=licence,
        mesh_sha256=mesh_sha256,
        model="tiny-flux@1234",
        settings={"steps": 2},
        correspondence_share={},
        samples=[
            SampleRecord(
                sample_id=sample_id_of(set_id, index),
                index=index,
                prompt=PROMPTS[index],
                prompt_kind="scene",
                prompt_sent=PROMPTS[index],
                seed=index,
            )
            for index in range(len(images))
        ],
    )
    files = {}
    for index, (image, mask) in enumerate(zip(images, masks, strict=True)):
        files[f"{index}.png"], files[f"{index}.mask.png"] = encode_png(image), encode_png(mask)
    return set_id, record, files


def random_set(object_id, seed, size=32, count=3, **more):
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, size, size), bool)
    for mask in masks:
        row, column = rng.integers(0, size // 2, 2)
        mask[row : row + size // 2, column : column + size // 3] = True
    return generated(object_id, rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8), masks, **more)


def image_scores(quality, **changes):
    """Scores of an image that only its quality can cost its place."""
    values = {
        "identity": 0.8,
        "identity_masked": 0.7,
        "clip_image": 0.6,
        "clip_text": 0.25,
        "background": 0.3,
        "saturation": 0.4,
        "clipped": 0.02,
        "area": 0.2,
        "cut_off": 0.0,
    }
    return ImageScores(quality=quality, **(values | changes))


def score_record(set_id, images, identity_pairs, background=0.3, hashes=None, licence="CC0-1.0"):
    """Every two backgrounds are alike by `background`; hashes are far from each other and from those of other sets."""
    count = len(images)
    rng = np.random.default_rng(list(set_id.encode()))
    pairs = [[1.0 if row == column else background for column in range(count)] for row in range(count)]
    return ScoreRecord(
        set_id=set_id,
        object_id=set_id.rpartition("-s")[0],
        licence=licence,
        images=images,
        identity_pairs=identity_pairs,
        background_pairs=pairs,
        hashes=hashes or [rng.bytes(8).hex() for _ in range(count)],
    )
