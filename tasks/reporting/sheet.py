"""Contact sheets: one PNG with a row per set, or per row of an ablation; for a terminal user, a README or a chat."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data.images import encode_png
from tasks.reporting.sets import PICTURES, ShownSet

TILE = 96
GAP = 4
BETWEEN_VIEWS = 18
MARGIN = 16
LINE = 15
HEAD = 30
INK, SOFT, GOOD, BAD, PAPER = (27, 35, 48), (93, 104, 120), (26, 127, 75), (179, 38, 30), (255, 255, 255)


def contact_sheet(sets: Sequence[ShownSet], title: str) -> bytes:
    """PNG: the title, then a row per set: its decision, id and caption; per view depth, mask and image with the scores.

    Pictures are scaled to 96 px tiles, those smaller with sharp pixels. ValueError if `sets` is empty.
    """
    if not sets:
        raise ValueError("contact sheet: no set to show; the generate, score and select stages must hold one")
    views = max(len(shown.generated.samples) for shown in sets)
    view_width = 3 * TILE + 2 * GAP
    row_height = LINE + 4 + TILE + 2 * LINE + 14
    size = (2 * MARGIN + views * view_width + (views - 1) * BETWEEN_VIEWS, 2 * MARGIN + HEAD + len(sets) * row_height)
    sheet = Image.new("RGB", size, PAPER)
    _write(sheet, (MARGIN, MARGIN - 4), title, size[0] - 2 * MARGIN, INK, 16)
    for row, shown in enumerate(sets):
        _draw_set(sheet, shown, MARGIN + HEAD + row * row_height, view_width)
    return encode_png(np.asarray(sheet))


def image_grid(rows: Mapping[str, Sequence[bytes]]) -> bytes:
    """PNG: a line of 96 px tiles per row, its name before them. ValueError without a picture."""
    across = max(map(len, rows.values()), default=0)
    if not across:
        raise ValueError("image grid: no picture to show; at least one row must hold one")
    font = ImageFont.load_default(size=12)
    label = 2 * GAP + round(max(ImageDraw.Draw(Image.new("RGB", (1, 1))).textlength(name, font) for name in rows))
    step = TILE + GAP
    sheet = Image.new("RGB", (label + across * step, GAP + len(rows) * step), PAPER)
    for line, (name, pictures) in enumerate(rows.items()):
        top = GAP + line * step
        _write(sheet, (GAP, top + TILE // 2 - 8), name, label, INK)
        for column, data in enumerate(pictures):
            sheet.paste(_tile(data), (label + column * step, top))
    return encode_png(np.asarray(sheet))


def _draw_set(sheet: Image.Image, shown: ShownSet, top: int, view_width: int) -> None:
    generated, kept = shown.generated, shown.decision.kept
    _write(sheet, (MARGIN, top), "kept" if kept else "dropped", 60, GOOD if kept else BAD)
    title = f"{generated.set_id}: {generated.appearance or generated.caption}"
    _write(sheet, (MARGIN + 60, top), title, sheet.width - 2 * MARGIN - 60, INK)
    top += LINE + 4
    views = zip(generated.samples, shown.scores.images, shown.decision.images, strict=True)
    for place, (sample, scores, decision) in enumerate(views):
        left = MARGIN + place * (view_width + BETWEEN_VIEWS)
        for column, (kind, _) in enumerate(PICTURES):
            data = shown.files.get(f"{sample.index}.{kind}")
            if data is not None:
                sheet.paste(_tile(data), (left + column * (TILE + GAP), top))
        said = f"quality {scores.quality:.2f}, identity {scores.identity:.2f}, text {scores.clip_text:.2f}"
        if not decision.kept:
            said += ": " + ", ".join(reason.code.replace("_", " ") for reason in decision.reasons)
        _write(sheet, (left, top + TILE + 2), said, view_width, SOFT if decision.kept else BAD)
        _write(sheet, (left, top + TILE + 2 + LINE), sample.prompt, view_width, INK)


def _tile(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    scale = TILE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX)


def _write(
    sheet: Image.Image, place: tuple[int, int], text: str, width: int, colour: tuple[int, int, int], size: int = 12
) -> None:
    """`text` on one line, cut with an ellipsis to `width` pixels."""
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=size)
    text = " ".join(text.split())
    if draw.textlength(text, font) > width:
        while text and draw.textlength(text + "...", font) > width:
            text = text[:-1]
        text += "..."
    draw.text(place, text, colour, font)
