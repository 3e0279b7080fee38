"""Scenes behind an object: painted backdrops with an optional prop, and compositing onto them."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from models.miniature import painting
from models.miniature.painting import Brush, Painter, PropPainter


@dataclass(frozen=True)
class Scene:
    """A backdrop: the phrase that places an object in it, and its painter."""

    phrase: str
    paint: Painter


_SCENES: dict[str, Scene] = {
    "beach": Scene("on a beach", painting.beach),
    "city": Scene("in a city at night", painting.city),
    "desert": Scene("in a desert", painting.desert),
    "forest": Scene("in a forest", painting.forest),
    "garden": Scene("in a garden", painting.garden),
    "kitchen": Scene("on a kitchen counter", painting.kitchen),
    "library": Scene("in a library", painting.library),
    "moon": Scene("on the moon", painting.moon),
    "mountains": Scene("in front of snowy mountains", painting.mountains),
    "wall": Scene("in front of a brick wall", painting.street),
}
SCENES: tuple[str, ...] = tuple(_SCENES)

_PROPS: dict[str, PropPainter] = {
    "a blue bucket": painting.blue_bucket,
    "a potted plant": painting.potted_plant,
    "a red ball": painting.red_ball,
    "a traffic cone": painting.traffic_cone,
    "a wooden crate": painting.wooden_crate,
}
OTHER_OBJECTS: tuple[str, ...] = tuple(_PROPS)

_SUPERSAMPLING = 2


def scene_phrase(name: str) -> str:
    """ "on a beach" for "beach"; ValueError for an unknown scene."""
    if name not in _SCENES:
        raise ValueError(f"scene {name!r}; choose one of {', '.join(SCENES)}")
    return _SCENES[name].phrase


def full_caption(object_caption: str, scene: str, other_object: str | None = None) -> str:
    """ "a striped mug next to a red ball on a beach": an object's caption set into a scene."""
    if other_object is not None and other_object not in _PROPS:
        raise ValueError(f"other object {other_object!r}; choose one of {', '.join(OTHER_OBJECTS)}")
    beside = "" if other_object is None else f" next to {other_object}"
    return f"{object_caption}{beside} {scene_phrase(scene)}"


def paint_scene(name: str, size: int, rng: np.random.Generator, other_object: str | None = None) -> np.ndarray:
    """Paint a backdrop, uint8 (size, size, 3); its layout, tint and the prop's place vary with `rng`.

    The prop stands at the left or right edge, on the ground of the lower part.
    """
    scene_phrase(name)
    if other_object is not None and other_object not in _PROPS:
        raise ValueError(f"other object {other_object!r}; choose one of {', '.join(OTHER_OBJECTS)}")
    canvas = Image.new("RGB", (size * _SUPERSAMPLING, size * _SUPERSAMPLING))
    _SCENES[name].paint(Brush(canvas), rng)
    tint = rng.uniform(0.92, 1.06) * rng.uniform(0.96, 1.04, 3)
    canvas = canvas.point([min(255, round(level * share)) for share in tint.tolist() for level in range(256)])
    if other_object is not None:
        brush = Brush(canvas)
        side = 1.0 if rng.random() < 0.5 else -1.0
        x, foot, wide = 0.5 + side * rng.uniform(0.34, 0.38), rng.uniform(0.84, 0.93), rng.uniform(0.2, 0.25)
        brush.disc(x, foot, wide * 0.55, (0, 0, 0, 80), 0.25)
        _PROPS[other_object](brush, x, foot, wide)
    return np.asarray(canvas.reduce(_SUPERSAMPLING))


def composite(rgb: np.ndarray, mask: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Put an object on a background with a soft contact shadow under it.

    `rgb` and `background` are uint8 (H, W, 3); `mask` (H, W) is bool, or a coverage in [0, 1]. An empty
    mask returns the background. Object pixels keep their colours: the shadow falls on the background only.
    """
    if rgb.shape != background.shape or mask.shape != rgb.shape[:2]:
        raise ValueError(f"shapes differ: rgb {rgb.shape}, mask {mask.shape}, background {background.shape}")
    cover = mask.astype(np.float32)
    rows = np.flatnonzero((cover > 0.5).any(axis=1))
    if len(rows) == 0:
        return background.copy()
    bottom = rows[-1]
    lowest = (cover[max(rows[0], bottom - max(1, len(rows) // 6)) : bottom + 1] > 0.5).any(axis=0)
    columns = np.flatnonzero(lowest)
    centre, radius = (columns[0] + columns[-1]) / 2, (columns[-1] - columns[0] + 1) * 0.6 + 0.02 * mask.shape[1]
    x = (np.arange(mask.shape[1]) - centre) / radius
    y = (np.arange(mask.shape[0]) - bottom + 0.15 * radius) / (radius * 0.35)
    shadow = 0.5 * np.exp(-((y**2)[:, None] + (x**2)[None]) * 1.5)
    ground = background * (1 - shadow)[..., None]
    blend = cover[..., None] * rgb + (1 - cover)[..., None] * ground
    return np.clip(np.rint(blend), 0, 255).astype(np.uint8)
