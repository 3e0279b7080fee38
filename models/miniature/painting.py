"""Procedural backdrops and props, painted in unit coordinates (x right, y down) with a random variation.

Each backdrop has ground in its lower part, where an object can stand; each prop stands on that ground.
"""

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]


class Brush:
    """Draws on a square RGB image; a fourth colour component is an opacity of 0 to 255."""

    def __init__(self, image: Image.Image) -> None:
        self.image = image
        self.pixels = image.width
        self._draw = ImageDraw.Draw(image, "RGBA")

    def gradient(self, top: float, bottom: float, upper: Colour, lower: Colour) -> None:
        """Fill the full width between two heights, from `upper` to `lower`."""
        start, stop = round(top * self.pixels), round(bottom * self.pixels)
        share = np.linspace(0.0, 1.0, max(stop - start, 1))[:, None]
        rows = ((1 - share) * upper + share * lower).astype(np.uint8)
        band = np.repeat(rows[:, None], self.pixels, axis=1)
        self.image.paste(Image.fromarray(band), (0, start))

    def box(self, left: float, top: float, right: float, bottom: float, fill: tuple[int, ...]) -> None:
        scale = self.pixels
        if right > left and bottom > top:
            self._draw.rectangle((left * scale, top * scale, right * scale - 1, bottom * scale - 1), fill)

    def disc(self, x: float, y: float, radius: float, fill: tuple[int, ...], squash: float = 1.0) -> None:
        scale, high = self.pixels, radius * squash
        self._draw.ellipse(((x - radius) * scale, (y - high) * scale, (x + radius) * scale, (y + high) * scale), fill)

    def polygon(self, points: Sequence[tuple[float, float]], fill: tuple[int, ...]) -> None:
        self._draw.polygon([(x * self.pixels, y * self.pixels) for x, y in points], fill)

    def line(self, points: Sequence[tuple[float, float]], width: float, fill: tuple[int, ...]) -> None:
        scaled = [(x * self.pixels, y * self.pixels) for x, y in points]
        self._draw.line(scaled, fill, max(1, round(width * self.pixels)), joint="curve")


Rng = np.random.Generator
Painter = Callable[[Brush, Rng], None]
PropPainter = Callable[[Brush, float, float, float], None]


def _shade(colour: Colour, factor: float) -> Colour:
    red, green, blue = (min(255, max(0, round(c * factor))) for c in colour)
    return red, green, blue


def _hill(brush: Brush, rng: Rng, level: float, height: float, fill: Colour) -> None:
    """A rolling horizon filled down to the bottom edge."""
    phase, waves = rng.uniform(0, 6.3), rng.uniform(0.6, 1.3)
    x = np.linspace(-0.02, 1.02, 24)
    y = level - height * np.sin(x * waves * 6.3 + phase)
    brush.polygon([*zip(x.tolist(), y.tolist(), strict=True), (1.02, 1.02), (-0.02, 1.02)], fill)


def beach(brush: Brush, rng: Rng) -> None:
    horizon, shore = rng.uniform(0.34, 0.44), rng.uniform(0.56, 0.64)
    brush.gradient(0, horizon, (90, 180, 245), (205, 235, 250))
    brush.disc(rng.uniform(0.15, 0.85), rng.uniform(0.1, 0.2), 0.08, (255, 240, 140))
    brush.gradient(horizon, 1, (15, 95, 175), (50, 190, 200))
    _hill(brush, rng, shore - 0.02, 0.02, (240, 250, 250))
    _hill(brush, rng, shore + 0.01, 0.02, (238, 214, 150))
    side = rng.choice((-1.0, 1.0))
    foot, top = 0.5 + side * rng.uniform(0.36, 0.42), rng.uniform(0.16, 0.24)
    crown = foot - side * 0.07
    brush.line([(foot, shore + 0.08), (foot - side * 0.01, 0.45), (crown, top)], 0.035, (125, 85, 45))
    for angle in np.linspace(-0.4, 3.5, 6) + rng.uniform(-0.2, 0.2):
        tip = (crown + 0.2 * np.cos(angle), top - 0.1 * np.sin(angle) + 0.05)
        middle = (crown + 0.1 * np.cos(angle), top - 0.09 * np.sin(angle) - 0.03)
        brush.line([(crown, top), middle, tip], 0.035, (35, 130, 55))


def forest(brush: Brush, rng: Rng) -> None:
    floor = rng.uniform(0.58, 0.66)
    brush.gradient(0, floor, (30, 85, 45), (125, 175, 105))
    brush.gradient(floor, 1, (75, 110, 45), (50, 70, 30))
    for depth, count in ((0, 5), (1, 4)):
        for x in (np.arange(count) + rng.uniform(0.1, 0.9, count)) / count:
            width, foot = (0.03, floor + 0.02) if depth == 0 else (0.06, floor + rng.uniform(0.04, 0.1))
            trunk = (80, 70, 45) if depth == 0 else (88, 56, 32)
            brush.box(x - width / 2, 0, x + width / 2, foot, trunk)
    leaf = rng.uniform(0.8, 1.15)
    for x in np.linspace(0.0, 1.0, 8) + rng.uniform(-0.06, 0.06, 8):
        green = _shade((28, 100, 42), leaf * rng.uniform(0.75, 1.2))
        brush.disc(x, rng.uniform(-0.02, 0.1), rng.uniform(0.1, 0.16), green)


def mountains(brush: Brush, rng: Rng) -> None:
    field = rng.uniform(0.58, 0.66)
    brush.gradient(0, field, (110, 165, 225), (225, 238, 250))
    for x in (rng.uniform(0.0, 0.2), rng.uniform(0.75, 1.0), rng.uniform(0.35, 0.65)):
        peak, spread = rng.uniform(0.1, 0.26), rng.uniform(0.3, 0.42)
        brush.polygon(
            [(x - spread, field), (x, peak), (x + spread, field)], _shade((105, 115, 140), rng.uniform(0.85, 1.1))
        )
        cap = 0.42
        low = peak + cap * (field - peak)
        reach = spread * cap
        edge = [(x + reach, low), (x + reach * 0.4, low - 0.05), (x, low + 0.03), (x - reach * 0.4, low - 0.05)]
        brush.polygon([(x - reach, low), (x, peak), *edge], (250, 252, 255))
    brush.gradient(field, 1, (235, 242, 252), (205, 222, 242))
    for x in rng.uniform(0.02, 0.98, 4):
        foot, size = field + rng.uniform(0.0, 0.05), rng.uniform(0.05, 0.08)
        for level in (0.0, 0.6):
            tip = foot - size * (1.8 + level)
            base = foot - size * level
            brush.polygon([(x - size * 0.7, base), (x, tip), (x + size * 0.7, base)], (40, 85, 75))


def desert(brush: Brush, rng: Rng) -> None:
    horizon = rng.uniform(0.5, 0.58)
    brush.gradient(0, horizon + 0.08, (245, 150, 70), (255, 225, 150))
    brush.disc(rng.uniform(0.2, 0.8), rng.uniform(0.14, 0.28), rng.uniform(0.09, 0.12), (255, 250, 215))
    _hill(brush, rng, horizon, 0.05, (205, 120, 60))
    _hill(brush, rng, horizon + 0.1, 0.04, (222, 145, 75))
    _hill(brush, rng, horizon + 0.22, 0.03, (235, 168, 95))
    for side in (-1.0, 1.0):
        x, foot = 0.5 + side * rng.uniform(0.3, 0.44), horizon + rng.uniform(0.1, 0.18)
        tall, thick, green = rng.uniform(0.28, 0.38), 0.055, (45, 120, 60)
        brush.line([(x, foot), (x, foot - tall)], thick, green)
        brush.disc(x, foot - tall, thick / 2, green)
        for arm, level in ((-1, 0.45), (1, 0.6)):
            joint, elbow = foot - tall * level, x + arm * 0.075
            brush.line([(x, joint), (elbow, joint), (elbow, joint - 0.1)], 0.036, green)


def city(brush: Brush, rng: Rng) -> None:
    street = rng.uniform(0.62, 0.7)
    brush.gradient(0, street, (12, 14, 45), (60, 45, 95))
    brush.disc(rng.uniform(0.1, 0.9), rng.uniform(0.08, 0.14), 0.06, (250, 245, 205))
    left = rng.uniform(-0.1, 0.0)
    while left < 1:
        width, top = rng.uniform(0.16, 0.26), rng.uniform(0.16, 0.42)
        brush.box(left, top, left + width - 0.015, street, _shade((30, 32, 55), rng.uniform(0.7, 1.4)))
        columns, rows = max(2, int(width / 0.065)), int((street - top) / 0.08)
        lit = rng.random((rows, columns)) < 0.65
        pitch = (width - 0.015) / columns
        for row, column in zip(*np.nonzero(lit), strict=True):
            x, y = left + pitch * (column + 0.25), top + 0.03 + 0.08 * row
            brush.box(x, y, x + pitch * 0.55, y + 0.045, (255, 215, 95))
        left += width
    brush.gradient(street, 1, (50, 50, 60), (72, 72, 82))
    brush.box(0, street, 1, street + 0.025, (110, 110, 120))
    start = rng.uniform(-0.2, 0.0)
    for x in np.arange(start, 1.0, 0.24):
        brush.polygon([(x, 0.93), (x + 0.13, 0.93), (x + 0.12, 0.9), (x + 0.01, 0.9)], (225, 215, 160))


def kitchen(brush: Brush, rng: Rng) -> None:
    edge, tint = rng.uniform(0.58, 0.66), rng.uniform(0.9, 1.0)
    brush.box(0, 0, 1, edge, _shade((165, 205, 200), tint))
    pitch, shift = rng.uniform(0.12, 0.15), rng.uniform(0, 0.1)
    for y in np.arange(-shift, edge, pitch):
        for x in np.arange(-shift, 1, pitch):
            brush.box(x + 0.008, y + 0.008, x + pitch - 0.008, y + pitch - 0.008, _shade((232, 245, 240), tint))
    rail = rng.uniform(0.08, 0.12)
    brush.box(0, rail, 1, rail + 0.02, (120, 120, 128))
    for x in (rng.uniform(0.1, 0.25), rng.uniform(0.42, 0.58), rng.uniform(0.75, 0.9)):
        brush.line([(x, rail), (x, rail + 0.14)], 0.022, (70, 70, 78))
        brush.disc(x, rail + 0.19, 0.065, _shade((70, 70, 78), rng.uniform(0.8, 1.5)))
    brush.gradient(edge, 1, (200, 140, 80), (165, 105, 55))
    brush.box(0, edge, 1, edge + 0.02, (225, 170, 110))
    for y in (0.78, 0.9):
        brush.line([(0, y), (1, y)], 0.01, (150, 95, 50))


def library(brush: Brush, rng: Rng) -> None:
    floor = rng.uniform(0.64, 0.7)
    brush.box(0, 0, 1, floor, (70, 42, 25))
    shelf = floor / 3
    colours = ((150, 40, 40), (40, 80, 120), (45, 100, 60), (190, 150, 70), (110, 60, 110), (210, 195, 160))
    for row in range(3):
        x, foot = rng.uniform(-0.04, 0.02), (row + 1) * shelf - 0.03
        while x < 1:
            width = rng.uniform(0.035, 0.065)
            top = foot - shelf * rng.uniform(0.6, 0.82)
            brush.box(x, top, x + width - 0.006, foot, colours[rng.integers(len(colours))])
            x += width + (0.06 if rng.random() < 0.06 else 0.0)
        brush.box(0, foot, 1, foot + 0.03, (125, 80, 45))
    brush.gradient(floor, 1, (95, 45, 40), (130, 60, 50))
    brush.box(0, floor, 1, floor + 0.02, (50, 30, 20))


def street(brush: Brush, rng: Rng) -> None:
    kerb, high, tint = rng.uniform(0.62, 0.7), rng.uniform(0.075, 0.09), rng.uniform(0.85, 1.1)
    brush.box(0, 0, 1, kerb, (200, 185, 170))
    wide = high * 2.1
    for row in range(int(kerb / high) + 1):
        top = kerb - (row + 1) * high
        for x in np.arange(-wide * (0.5 if row % 2 else 1.0) * rng.uniform(0.95, 1.0), 1.0, wide):
            brush.box(x + 0.01, top + 0.01, x + wide, top + high, _shade((165, 72, 55), tint * rng.uniform(0.85, 1.12)))
    brush.gradient(kerb, 1, (150, 150, 152), (175, 175, 176))
    brush.box(0, kerb, 1, kerb + 0.02, (105, 105, 108))
    gap = rng.uniform(0.2, 0.35)
    for x in np.arange(gap - 0.3, 1.3, gap):
        brush.line([(x, kerb), (0.5 + (x - 0.5) * 1.7, 1)], 0.01, (125, 125, 128))


def garden(brush: Brush, rng: Rng) -> None:
    lawn = rng.uniform(0.54, 0.62)
    brush.gradient(0, lawn, (120, 195, 250), (215, 240, 255))
    _hill(brush, rng, lawn - 0.2, 0.03, (60, 140, 70))
    for x in np.arange(rng.uniform(-0.1, 0.0), 1.0, 0.11):
        top = lawn - 0.2
        brush.polygon(
            [(x, lawn), (x, top), (x + 0.035, top - 0.04), (x + 0.07, top), (x + 0.07, lawn)], (248, 248, 244)
        )
    for y in (lawn - 0.15, lawn - 0.06):
        brush.box(0, y, 1, y + 0.03, (235, 235, 230))
    brush.gradient(lawn, 1, (125, 200, 80), (85, 165, 60))
    petals = ((240, 70, 90), (255, 225, 60), (245, 245, 250), (190, 90, 210))
    for number in range(12):
        x, y = rng.uniform(0.02, 0.98), lawn + (0.04 + 0.36 * rng.random() ** 1.5)
        radius = 0.022 + 0.02 * (y - lawn)
        brush.line([(x, y), (x, y + 0.06)], 0.014, (40, 110, 45))
        brush.disc(x, y, radius * 1.25, petals[number % len(petals)])
        brush.disc(x, y, radius * 0.45, (250, 180, 40))


def moon(brush: Brush, rng: Rng) -> None:
    horizon = rng.uniform(0.5, 0.6)
    brush.box(0, 0, 1, 1, (6, 6, 14))
    for x, y in rng.uniform(0, 1, (26, 2)):
        brush.disc(x, y * horizon, 0.009, (235, 235, 245))
    x, y = rng.uniform(0.18, 0.82), rng.uniform(0.16, 0.26)
    brush.disc(x, y, 0.12, (40, 105, 215))
    brush.disc(x - 0.03, y - 0.03, 0.05, (70, 165, 85))
    brush.disc(x + 0.05, y + 0.05, 0.035, (70, 165, 85))
    brush.disc(x + 0.04, y - 0.07, 0.025, (240, 245, 250))
    _hill(brush, rng, horizon, 0.03, (150, 150, 152))
    _hill(brush, rng, horizon + 0.14, 0.02, (172, 172, 174))
    for _ in range(7):
        y = rng.uniform(horizon + 0.06, 0.97)
        x, radius = rng.uniform(0, 1), 0.03 + 0.12 * (y - horizon)
        brush.disc(x, y, radius, (110, 110, 114), 0.4)
        brush.disc(x, y + radius * 0.1, radius * 0.8, (135, 135, 138), 0.35)


def red_ball(brush: Brush, x: float, foot: float, size: float) -> None:
    radius = size / 2
    brush.disc(x, foot - radius, radius, (205, 30, 35))
    brush.disc(x - radius * 0.35, foot - radius * 1.4, radius * 0.28, (255, 150, 140))


def wooden_crate(brush: Brush, x: float, foot: float, size: float) -> None:
    left, right, top = x - size / 2, x + size / 2, foot - size
    bar, dark = size * 0.16, (120, 75, 35)
    brush.box(left, top, right, foot, (195, 140, 80))
    brush.line([(left + bar, foot - bar), (right - bar, top + bar)], bar, dark)
    brush.line([(left + bar, top + bar), (right - bar, foot - bar)], bar, dark)
    for edges in ((left, top, right, top + bar), (left, foot - bar, right, foot)):
        brush.box(*edges, dark)
    for edges in ((left, top, left + bar, foot), (right - bar, top, right, foot)):
        brush.box(*edges, dark)


def potted_plant(brush: Brush, x: float, foot: float, size: float) -> None:
    rim = foot - size * 0.5
    for shift, lift in ((-0.42, 0.55), (0.42, 0.55), (-0.22, 0.85), (0.22, 0.85), (0.0, 1.0)):
        tip = (x + shift * size * 1.1, rim - lift * size * 0.85)
        side = (x + shift * size * 0.9 + 0.16 * size, rim - lift * size * 0.35)
        other = (x + shift * size * 0.9 - 0.16 * size, rim - lift * size * 0.35)
        brush.polygon([(x, rim), side, tip, other], _shade((40, 140, 60), 0.8 + 0.3 * lift))
    wide, narrow = size * 0.42, size * 0.3
    brush.polygon([(x - wide, rim), (x + wide, rim), (x + narrow, foot), (x - narrow, foot)], (190, 95, 55))
    brush.box(x - wide * 1.1, rim, x + wide * 1.1, rim + size * 0.12, (160, 75, 42))


def traffic_cone(brush: Brush, x: float, foot: float, size: float) -> None:
    tip, wide = foot - size * 1.25, size * 0.42
    brush.polygon([(x - wide, foot), (x - size * 0.07, tip), (x + size * 0.07, tip), (x + wide, foot)], (250, 110, 25))
    for low, high in ((0.28, 0.46), (0.62, 0.78)):
        ends = [(share, wide + (size * 0.07 - wide) * share) for share in (low, high)]
        left = [(x - half, foot + (tip - foot) * share) for share, half in ends]
        right = [(x + half, foot + (tip - foot) * share) for share, half in reversed(ends)]
        brush.polygon([*left, *right], (250, 250, 250))
    brush.box(x - wide * 1.3, foot - size * 0.1, x + wide * 1.3, foot, (225, 90, 15))


def blue_bucket(brush: Brush, x: float, foot: float, size: float) -> None:
    rim, wide, narrow = foot - size * 0.85, size * 0.48, size * 0.34
    angle = np.linspace(0, np.pi, 10)
    grip = zip(x - wide * 0.95 * np.cos(angle), rim - size * 0.4 * np.sin(angle), strict=True)
    brush.line([(float(a), float(b)) for a, b in grip], 0.02, (90, 90, 98))
    brush.polygon([(x - wide, rim), (x + wide, rim), (x + narrow, foot), (x - narrow, foot)], (35, 95, 205))
    brush.disc(x, rim, wide, (20, 55, 130), 0.28)
