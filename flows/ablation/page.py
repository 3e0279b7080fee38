"""Charts and pages of an ablation: PNG, Markdown and HTML."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

BAR, POINT, TICK = "#8fb0d9", "#1f5fa8", "#333333"
LINES = ("#1f5fa8", "#c4562f", "#3d8b5f", "#7d5ba6")


@dataclass(frozen=True)
class Mark:
    """A mean with its 95 % interval, and the means of single seeds."""

    mean: float
    low: float
    high: float
    seeds: tuple[float, ...] = ()


@dataclass(frozen=True)
class Figures:
    """What one picture shows, a panel for each title."""

    panels: Mapping[str, Mapping[str, Mark]]
    """Title -> row -> mark; a row without a mark in a panel has an empty line there."""
    places: Mapping[str, tuple[str, float]] | None = None
    """Row -> line and x, for rows that are the points of a sweep; else every row is a line of its own."""
    axis: str = ""
    """What x is."""


def draw(figures: Figures) -> bytes:
    """PNG, the panels side by side."""
    rows = list(dict.fromkeys(row for panel in figures.panels.values() for row in panel))
    height = 3.2 if figures.places else 1.2 + 0.34 * len(rows)
    figure = Figure(figsize=(11, height), dpi=110)
    panels = figure.subplots(1, len(figures.panels), sharey=not figures.places, squeeze=False)[0]
    for axes, (title, marks) in zip(panels, figures.panels.items(), strict=True):
        if figures.places:
            _sweep(axes, marks, figures.places)
            axes.set_xlabel(figures.axis, fontsize=8)
        else:
            _bars(axes, marks, rows)
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelsize=8)
    if not figures.places:
        panels[0].invert_yaxis()
    figure.tight_layout()
    canvas, buffer = FigureCanvasAgg(figure), io.BytesIO()
    canvas.print_png(buffer)
    return buffer.getvalue()


def _bars(axes: Axes, marks: Mapping[str, Mark], rows: Sequence[str]) -> None:
    for place, row in enumerate(rows):
        if row not in marks:
            continue
        mark = marks[row]
        axes.plot([mark.low, mark.high], [place, place], color=BAR, linewidth=5, solid_capstyle="butt")
        axes.plot(mark.mean, place, "o", color=POINT, markersize=5)
        for mean in mark.seeds:
            axes.plot(mean, place, "|", color=TICK, markersize=9)
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)


def _sweep(axes: Axes, marks: Mapping[str, Mark], places: Mapping[str, tuple[str, float]]) -> None:
    lines = dict.fromkeys(places[row][0] for row in marks)
    for colour, line in zip(LINES, lines, strict=False):
        own = sorted((places[row][1], mark) for row, mark in marks.items() if places[row][0] == line)
        x = [value for value, _ in own]
        axes.fill_between(x, [mark.low for _, mark in own], [mark.high for _, mark in own], color=colour, alpha=0.15)
        axes.plot(x, [mark.mean for _, mark in own], "o-", color=colour, markersize=4, linewidth=1.4, label=line)
        for value, mark in own:
            axes.plot([value] * len(mark.seeds), mark.seeds, "_", color=colour, markersize=7)
    if len(lines) > 1:
        axes.legend(fontsize=8, frameon=False)
    axes.grid(color="#dddddd", linewidth=0.6)


@dataclass(frozen=True)
class Part:
    """A table with its chart and, if there are any, images of its rows; both PNG."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    picture: bytes
    images: bytes = b""


def as_markdown(title: str, note: str, parts: Sequence[Part]) -> str:
    lines = [f"# {title}", "", note, ""]
    for part in parts:
        lines += [f"## {part.title}", ""] if part.title else []
        lines += [f"| {' | '.join(line)} |" for line in (part.head, ["---"] * len(part.head), *part.rows)]
        lines.append("")
    return "\n".join(lines)


def as_html(title: str, note: str, parts: Sequence[Part]) -> str:
    """A page that loads nothing from elsewhere."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    pictures = [[base64.b64encode(data).decode() for data in (part.picture, part.images)] for part in parts]
    return environment.get_template("page.html.j2").render(
        title=title, note=note, parts=list(zip(parts, pictures, strict=True))
    )
