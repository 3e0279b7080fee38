from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.pictures import open_mask, open_reference, prepare_reference

SIDE = 16


def picture(seed: int, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_references_are_cut_to_the_middle_or_to_the_object() -> None:
    wide = np.zeros((40, 100, 3), dtype=np.uint8)
    wide[:, 30:70] = (255, 0, 0)
    np.testing.assert_array_equal(prepare_reference(wide, None, 8, 8)[0], np.full((8, 8, 3), (255, 0, 0)))
    mask = np.zeros((40, 100), dtype=bool)
    mask[10:30, 80:90] = True
    wide[mask] = (0, 255, 0)
    cut, cut_mask = prepare_reference(wide, mask, 30, 30)
    side = 30
    assert (cut[5:25, 15] == (0, 255, 0)).all(), "the object's longer side and a quarter of it on both sides"
    assert (cut[0] == 0).all() and (cut[-1] == 0).all()
    np.testing.assert_array_equal(cut_mask, (cut == (0, 255, 0)).all(axis=2))
    edge = np.zeros((40, 100), dtype=bool)
    edge[0:4, 96:100] = True
    assert prepare_reference(wide, edge, side, side)[0].shape == (side, side, 3)


def test_pictures_are_seen_as_their_camera_turned_them(tmp_path: Path) -> None:
    shown = Image.fromarray(picture(1, 8, 16))
    exif = Image.Exif()
    exif[0x0112] = 8  # turn by 90 degrees to the left
    shown.save(tmp_path / "turned.png", exif=exif)
    cut, _ = prepare_reference(tmp_path / "turned.png", None, 8, 8)
    np.testing.assert_array_equal(cut, np.rot90(prepare_reference(shown, None, 8, 8)[0]))


def mask_files(folder: Path, where: np.ndarray) -> dict[str, Path]:
    """One mask as different programs write it."""
    white, high = np.full(where.shape, 255, np.uint8), where.astype(np.uint8) * 255
    cutout = np.zeros((*where.shape, 3), np.uint8)
    pictures = {
        "one.png": Image.fromarray(where.astype(np.uint8)),
        "bits.png": Image.fromarray(high).convert("1"),
        "deep.png": Image.fromarray(high.astype(np.uint16) * 257),
        "opaque.png": Image.merge("RGBA", [*[Image.fromarray(high)] * 3, Image.fromarray(white)]),
        "white.png": Image.merge("LA", [Image.fromarray(white), Image.fromarray(high)]),
        "cutout.png": Image.merge("RGBA", [*Image.fromarray(cutout).split(), Image.fromarray(high)]),
        "lossy.jpg": Image.fromarray(high),
        "lossy.webp": Image.fromarray(high),
    }
    for name, own in pictures.items():
        own.save(folder / name)
    return {name: folder / name for name in pictures}


def test_masks_say_the_same_however_they_were_written(tmp_path: Path) -> None:
    where = np.zeros((64, 64), dtype=bool)
    where[20:37, 11:50] = True
    for name, path in mask_files(tmp_path, where).items():
        np.testing.assert_array_equal(np.asarray(open_mask(path)) > 0, where, err_msg=name)


def test_grey_of_16_bits_is_scaled(tmp_path: Path) -> None:
    deep = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    seen = np.asarray(open_reference(tmp_path / "deep.png"))
    np.testing.assert_array_equal(seen, np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2))


@pytest.mark.parametrize(
    ("reference", "mask", "message"),
    [
        (picture(1), np.zeros((SIDE, SIDE), bool), "mask is empty"),
        (picture(1), np.ones((4, 4), bool), "mask is 4 x 4, its reference 16 x 16"),
        (picture(1).astype(np.float32), None, "picture is float32"),
    ],
)
def test_references_that_cannot_be_used_are_errors(reference: np.ndarray, mask: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prepare_reference(reference, mask, 8, 8)
