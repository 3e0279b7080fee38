"""One set, seen from all sides: views, depth, masks, images, correspondences as lines, scores and the decision."""

import difflib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch

from configs.schema import Recipe
from data.cameras import Camera
from data.correspondence import correspond
from data.depth import decode_depth16
from data.images import decode_mask, decode_png
from data.outside_text import on_terminal
from data.records import DecisionRecord, GeneratedRecord, ImageScores, RenderRecord, ScoreRecord
from data.shards import Sample, ShardError, ShardIndex, load_index, read_shard
from tasks.reporting.sets import reason_text

LINES = 12
"""Correspondences drawn for each pair of views."""
INCHES = 2.4
PAPER = 235
MASK_COLOUR = np.array([230, 60, 60])


class UnknownSetError(Exception):
    """No stage holds the set; the message says why, or which ids are alike."""


@dataclass(frozen=True)
class Inspection:
    lines: list[str]
    picture: bytes
    """PNG; empty if no stage holds a picture of it."""


def find(workspace: Path, stage: str, key: str) -> Sample | None:
    """A sample of a finished stage; None if the stage has not finished or does not hold it."""
    folder = workspace / "artifacts" / stage
    if not (folder / "index.json").exists():
        return None
    for entry in load_index(folder).shards:
        if key in entry.keys:
            return next(sample for sample in read_shard(folder, entry) if sample.key == key)
    return None


def inspect_set(workspace: Path, set_id: str, recipe: Recipe) -> Inspection:
    """What the finished stages of `workspace` hold of a set. UnknownSetError if that is nothing."""
    found = {stage: find(workspace, stage, set_id) for stage in ("render", "generate", "score", "select")}
    if not any(found.values()):
        raise UnknownSetError(_unknown(workspace, set_id))
    render = RenderRecord.model_validate(found["render"].record) if found["render"] else None
    made = GeneratedRecord.model_validate(found["generate"].record) if found["generate"] else None
    scores = ScoreRecord.model_validate(found["score"].record) if found["score"] else None
    decision = DecisionRecord.model_validate(found["select"].record) if found["select"] else None
    files = {
        stage: sample.files for stage, sample in found.items() if sample is not None and stage in ("render", "generate")
    }
    told = _told(set_id, render, made, scores, decision) + _failures(workspace, set_id)
    lines = [on_terminal(line) for line in told]
    return Inspection(lines, _drawn(set_id, files, render, made, scores, decision, recipe))


def _indexes(workspace: Path) -> Iterator[tuple[str, ShardIndex]]:
    for stage in ("render", "generate", "score", "select"):
        try:
            yield stage, load_index(workspace / "artifacts" / stage)
        except ShardError:
            continue


def _failures(workspace: Path, set_id: str) -> list[str]:
    return [
        f"failed       in {stage}: {failure.reason}: {failure.detail}"
        for stage, index in _indexes(workspace)
        for failure in index.failed
        if failure.key == set_id
    ]


def _unknown(workspace: Path, set_id: str) -> str:
    failed = _failures(workspace, set_id)
    if failed:
        return f"set {set_id} {failed[0].removeprefix('failed').strip()}"
    known = [key for _, index in _indexes(workspace) for key in index.keys]
    if not known:
        return f"{workspace}: no set has been rendered yet; run: syncd run --until select"
    near = difflib.get_close_matches(set_id, known, n=3, cutoff=0.3) or sorted(set(known))[:3]
    return f"no set {set_id!r}; there are {len(set(known))}, for example {', '.join(dict.fromkeys(near))}"


def _told(
    set_id: str,
    render: RenderRecord | None,
    made: GeneratedRecord | None,
    scores: ScoreRecord | None,
    decision: DecisionRecord | None,
) -> list[str]:
    record = made or render
    lines = [f"{set_id}: {record.category}, {record.split}, {record.licence}" if record else set_id]
    if made:
        lines += [f"caption      {made.caption}", f"model        {made.model}"]
        lines += [f"appearance   {made.appearance}"] if made.appearance else []
    if render and render.overlaps:
        lines.append("overlap      " + ", ".join(f"{pair}: {share:.0%}" for pair, share in render.overlaps.items()))
    for place, image in enumerate(made.samples if made else []):
        lines += [
            f"image {image.index}      {image.prompt_kind}, seed {image.seed}",
            f"  told       {image.prompt_sent}",
        ]
        if image.prompt_sent != image.prompt:
            lines.append(f"  published  {image.prompt}")
        if scores:
            own = scores.images[place]
            lines.append("  scores     " + ", ".join(f"{name} {value:.3f}" for name, value in own))
            lines.append(f"  hash       {scores.hashes[place]}")
        if decision:
            lines.append("  decision   " + _verdict(decision.images[place].kept, decision.images[place].reasons))
    if decision:
        lines.append("set          " + _verdict(decision.kept, decision.reasons))
        lines += [f"repeats      {decision.duplicate_of}"] if decision.duplicate_of else []
    return lines


def _verdict(kept: bool, reasons: list) -> str:
    return "kept" if kept else "dropped: " + "; ".join(reason_text(reason) for reason in reasons)


def _drawn(
    set_id: str,
    files: dict[str, dict[str, bytes]],
    render: RenderRecord | None,
    made: GeneratedRecord | None,
    scores: ScoreRecord | None,
    decision: DecisionRecord | None,
    recipe: Recipe,
) -> bytes:
    rows = _rows(files, render, made)
    if not rows:
        return b""
    columns = max(len(pictures) for pictures in rows.values())
    pairs = list(combinations(range(len(render.views)), 2)) if render and len(render.views) > 1 else []
    beside = max(1, columns // 2)
    extra = -(-len(pairs) // beside)
    figure = Figure(figsize=(INCHES * columns, INCHES * (len(rows) + extra) + 0.9), dpi=110)
    grid = figure.add_gridspec(len(rows) + extra, columns, left=0.02, right=0.98, top=0.93, bottom=0.02, hspace=0.32)
    for row, (name, pictures) in enumerate(rows.items()):
        for column, picture in enumerate(pictures):
            axes = figure.add_subplot(grid[row, column])
            axes.imshow(picture, cmap="gray", interpolation="nearest")
            axes.set_axis_off()
            title = name if column == 0 else ""
            if name == "generated" and scores and decision:
                title = _caption(scores.images[column], decision.images[column].kept)
            axes.set_title(title, fontsize=7, loc="left")
    for number, (target, source) in enumerate(pairs):
        row, place = divmod(number, beside)
        panels = [figure.add_subplot(grid[len(rows) + row, 2 * place + side]) for side in (0, 1)]
        _draw_pair(figure, panels, files["render"], render, target, source, recipe)
    figure.suptitle(set_id, fontsize=10)
    return _png(figure)


def _rows(
    files: dict[str, dict[str, bytes]], render: RenderRecord | None, made: GeneratedRecord | None
) -> dict[str, list[np.ndarray]]:
    rows: dict[str, list[np.ndarray]] = {}
    if render and render.views:
        count = range(len(render.views))
        rows["rendered"] = [_on_paper(files["render"][f"{view}.rgb.png"]) for view in count]
    if made:
        own, places = files["generate"], [image.index for image in made.samples]
        if all(f"{place}.depth.png" in own for place in places):
            rows["depth condition"] = [decode_png(own[f"{place}.depth.png"]) for place in places]
        images = [decode_png(own[f"{place}.png"]) for place in places]
        masks = [decode_mask(own[f"{place}.mask.png"]) for place in places]
        kind = "mask from the render" if render and render.views else "mask from the attention"
        rows[kind] = [_marked(image, mask) for image, mask in zip(images, masks, strict=True)]
        rows["generated"] = images
    elif render and render.views:
        rows["mask from the render"] = [decode_mask(files["render"][f"{view}.mask.png"]) * 255 for view in count]
    return rows


def _on_paper(data: bytes) -> np.ndarray:
    """A rendered view (RGBA) on light grey, so that its frame is seen."""
    rgba = decode_png(data)
    cover = rgba[..., 3:] / 255.0
    return np.rint(cover * rgba[..., :3] + (1 - cover) * PAPER).astype(np.uint8)


def _marked(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The image with the object in the colour of the mask, half transparent."""
    return np.where(mask[..., None], (image * 0.45 + MASK_COLOUR * 0.55).astype(np.uint8), image)


def _caption(scores: ImageScores, kept: bool) -> str:
    verdict = "kept" if kept else "dropped"
    return f"{verdict}: quality {scores.quality:.2f}\nidentity {scores.identity:.2f}, text {scores.clip_text:.2f}"


def _draw_pair(
    figure: Figure,
    panels: list,
    files: dict[str, bytes],
    render: RenderRecord,
    target: int,
    source: int,
    recipe: Recipe,
) -> None:
    """Views `target` and `source` side by side, with lines between points that correspond, evenly chosen."""
    depths, cameras = [], []
    for view in (target, source):
        own = render.views[view]
        depths.append(decode_depth16(files[f"{view}.depth.png"], own.near, own.far))
        cameras.append(Camera.from_dict(own.camera))
    grid = recipe.generate.correspondence_grid
    found = correspond(depths[0], cameras[0], depths[1], cameras[1], grid=grid, tolerance=recipe.render.tolerance)
    for axes, view in zip(panels, (target, source), strict=True):
        axes.imshow(_on_paper(files[f"{view}.rgb.png"]), interpolation="nearest")
        axes.set_axis_off()
    panels[0].set_title(
        f"views {target} and {source}: {found.share:.0%} of the grid corresponds", fontsize=7, loc="left"
    )
    rows, columns = np.nonzero(found.visible)
    chosen = np.linspace(0, len(rows) - 1, min(LINES, len(rows))).astype(int)
    height, width = depths[0].shape
    for number, place in enumerate(chosen):
        row, column = rows[place], columns[place]
        start = ((column + 0.5) / grid * width - 0.5, (row + 0.5) / grid * height - 0.5)
        end = tuple(found.uv[row, column] * (depths[1].shape[1], depths[1].shape[0]) - 0.5)
        line = ConnectionPatch(
            start, end, "data", "data", axesA=panels[0], axesB=panels[1], color=f"C{number % 10}", linewidth=0.8
        )
        figure.add_artist(line)


def _png(figure: Figure) -> bytes:
    canvas, buffer = FigureCanvasAgg(figure), io.BytesIO()
    canvas.print_png(buffer)
    return buffer.getvalue()
