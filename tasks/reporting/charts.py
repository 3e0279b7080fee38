"""Charts as inline SVG: no script, no font file, text that scales with the page, and equal bytes for equal numbers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 360, 210
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 30, 30
HEADROOM = 1.15
"""Share of the highest bar that a histogram reaches up to: the names of thresholds stand above the bars."""
MAX_POINTS = 400
"""Longer series are drawn as the means of this many equal runs of points."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Axes:
    """Maps data to pixels of the plot area; x grows right, y grows up."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        share = (value - self.x_low) / (self.x_high - self.x_low)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)


def axes_over(x: Sequence[float], y: Sequence[float]) -> Axes:
    """Axes that hold all values; a single value gets an axis from 0 to twice as far. ValueError if there is none."""
    return Axes(*_span(x), *_span(y))


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    if high > low:
        return low, high
    return (min(0.0, 2 * low), max(0.0, 2 * low)) if low else (0.0, 1.0)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten apart) from `low` to `high`."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def histogram(
    title: str, edges: Sequence[float], everything: Sequence[int], kept: Sequence[int], thresholds: Mapping[str, float]
) -> Markup:
    """Counts per bin, all and kept, with every threshold as a line (also one that lies beyond the bins).

    `edges` holds one more value than `everything` and `kept`. ValueError if it does not.
    """
    if len(edges) != len(everything) + 1 or len(kept) != len(everything):
        raise ValueError(f"histogram {title!r}: {len(edges)} edges for {len(everything)} and {len(kept)} counts")
    axes = axes_over([*edges, *thresholds.values()], [0, max(everything, default=0) * HEADROOM or 1])
    parts = [_frame(axes)]
    for name, counts in (("all", everything), ("kept", kept)):
        parts += [
            _bar(axes, name, low, high, count)
            for low, high, count in zip(edges, edges[1:], counts, strict=False)
            if count
        ]
    parts += [_marker(axes, f"{name} {value:g}", value) for name, value in thresholds.items()]
    return _svg(title, parts)


def _bar(axes: Axes, name: str, low: float, high: float, count: int) -> Markup:
    return Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>').format(
        name,
        axes.x(low),
        axes.y(count),
        round(max(axes.x(high) - axes.x(low) - 0.5, 0.6), 1),
        round(axes.y(0) - axes.y(count), 1),
        f"{low:.4g} to {high:.4g}: {count} {name}",
    )


def _marker(axes: Axes, label: str, value: float) -> Markup:
    x = axes.x(value)
    side, anchor = (4, "start") if x < (LEFT + WIDTH - RIGHT) / 2 else (-4, "end")
    return Markup(
        '<line class="threshold" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>'
        '<text class="threshold" x="{3}" y="{4}" text-anchor="{5}">{6}</text>'
    ).format(x, TOP, HEIGHT - BOTTOM, round(x + side, 1), TOP + 9, anchor, label)


def line_chart(title: str, series: Mapping[str, Sequence[Point]], x_label: str) -> Markup:
    """Curves over one x axis, in the colours c0, c1 ... of the style sheet, named in a legend if there are several.

    ValueError if no series has a point.
    """
    thinned = {name: thin(points) for name, points in series.items() if points}
    if not thinned:
        raise ValueError(f"chart {title!r}: no series has a point")
    points = [point for found in thinned.values() for point in found]
    axes = axes_over([x for x, _ in points], [y for _, y in points])
    parts = [_frame(axes)]
    for number, found in enumerate(thinned.values()):
        if len(found) == 1:
            ((x, y),) = found
            parts.append(Markup('<circle class="c{}" cx="{}" cy="{}" r="3"/>').format(number, axes.x(x), axes.y(y)))
            continue
        path = " ".join(f"{axes.x(x)},{axes.y(y)}" for x, y in found)
        parts.append(Markup('<polyline class="c{}" points="{}"/>').format(number, path))
    if len(thinned) > 1:
        parts += _legend(list(thinned))
    parts.append(
        Markup('<text class="label" x="{}" y="{}" text-anchor="end">{}</text>').format(
            WIDTH - RIGHT, HEIGHT - 4, x_label
        )
    )
    return _svg(title, parts)


def thin(points: Sequence[Point]) -> list[Point]:
    """At most MAX_POINTS points, each the mean of an equal run of consecutive ones."""
    run = math.ceil(len(points) / MAX_POINTS)
    if run <= 1:
        return list(points)
    groups = [points[start : start + run] for start in range(0, len(points), run)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def smooth(points: Sequence[Point], weight: float = 0.9) -> list[Point]:
    """Exponential moving average of y, corrected for its start, so that the first value is the first point's."""
    smoothed, total, mass = [], 0.0, 0.0
    for x, y in points:
        total = weight * total + (1 - weight) * y
        mass = weight * mass + (1 - weight)
        smoothed.append((x, total / mass))
    return smoothed


def _legend(names: Sequence[str]) -> list[Markup]:
    return [
        _text(f"legend c{number}", WIDTH - RIGHT - 4, TOP + 10 + 13 * number, name) for number, name in enumerate(names)
    ]


def _text(style: str, x: float, y: float, text: str) -> Markup:
    """Text that ends at x."""
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="end">{}</text>').format(style, x, y, text)


def _frame(axes: Axes) -> Markup:
    parts = []
    for value in ticks(axes.y_low, axes.y_high, 4):
        parts.append(
            Markup('<line class="grid" x1="{0}" x2="{1}" y1="{2}" y2="{2}"/>').format(
                LEFT, WIDTH - RIGHT, axes.y(value)
            )
        )
        parts.append(_text("tick", LEFT - 5, round(axes.y(value) + 3.5, 1), f"{value:g}"))
    for value in ticks(axes.x_low, axes.x_high):
        parts.append(
            Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(
                axes.x(value), HEIGHT - BOTTOM + 14, f"{value:g}"
            )
        )
    return Markup("").join(parts)


def _svg(title: str, parts: Sequence[Markup]) -> Markup:
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">'
        '<text class="title" x="{}" y="16">{}</text>{}</svg>'
    ).format(WIDTH, HEIGHT, title, LEFT, title, Markup("").join(parts))
