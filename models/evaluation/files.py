"""The files of an evaluation: table as CSV and Markdown, and the scores of every image as Parquet.

The backbone that a number comes from stands beside it: in every line of the CSV, under every heading of the Markdown,
and in the metadata of the Parquet file's columns. So does, in CSV and Markdown, the model that made a row's images.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.outside_text import csv_text
from models.evaluation.record import METRICS, EvaluatedImage
from models.evaluation.tables import ALL, KINDS, Scores

Table = Mapping[str, Mapping[str, Mapping[str, Any]]]
Backbones = Mapping[str, str]
"""Metric -> name@revision of all that it comes from."""
Models = Mapping[str, str]
"""Row -> what made its images."""
SPREADS = ("mean", "standard_error", "low", "high", "seed_std")
WITHOUT_NUMBER = "; no image has a number of it (diversity needs several seeds)"
SHORT = 12
"""Characters of a revision in a heading."""


def as_csv(table: Table, backbones: Backbones, models: Models) -> str:
    """One line per row, kind and metric."""
    lines: list[list[object]] = [["row", "kind", "metric", *SPREADS, "objects", "images", "backbone", "model"]]
    for row, kinds in table.items():
        for kind, cell in kinds.items():
            for metric in (name for name in METRICS if name in cell):
                numbers = ["" if cell[metric][spread] is None else cell[metric][spread] for spread in SPREADS]
                counts = [cell["objects"], cell["images"], backbones.get(metric, ""), models.get(row, "")]
                lines.append([row, kind, metric, *numbers, *counts])
    return csv_text(lines)


def guidance_csv(images: Iterable[EvaluatedImage]) -> str:
    """One line per row, kind and step: mean norms |g_I| and |g_c| of the images' guidance vectors, before scaling."""
    seen: dict[tuple[str, str], list[list[tuple[float, float, float]]]] = {}
    for image in images:
        if image.guidance_norms:
            seen.setdefault((image.row, image.kind), []).append(image.guidance_norms)
    lines: list[list[object]] = [["row", "kind", "step", "level", "image_norm", "text_norm", "images"]]
    for (row, kind), norms in seen.items():
        for step, (level, image, text) in enumerate(np.mean(norms, axis=0)):
            lines.append([row, kind, step, round(level, 4), round(image, 4), round(text, 4), len(norms)])
    return csv_text(lines)


def as_markdown(table: Table, gaps: Table, backbones: Backbones, models: Models, title: str) -> str:
    """Tables per kind of prompt, mean and 95 % bootstrap interval over objects: rows, paired differences; then the
    backbone of every metric and the model of every row."""
    lines = [f"# {title}", ""]
    for kind in (*KINDS, ALL):
        own = {row: kinds[kind] for row, kinds in table.items() if kind in kinds}
        if not own:
            continue
        counts = sorted({f"{cell['objects']} objects, {cell['images']} images" for cell in own.values()})
        lines += [
            f"## {kind} prompts" if kind != ALL else "## all prompts",
            "",
            f"{' or '.join(counts)} per row; mean [95 % bootstrap interval over objects] (standard deviation over "
            "seeds)",
            "",
            *_table("row", own, backbones),
            "",
        ]
        if kind in gaps:
            lines += ["Differences, paired by object, prompt and seed:", "", *_table("rows", gaps[kind], backbones), ""]
    told = {metric for kinds in table.values() for cells in kinds.values() for metric in cells}
    ends = {metric: "" if metric in told else WITHOUT_NUMBER for metric in backbones}
    lines += ["## backbones", "", *(f"- {metric}: {model}{ends[metric]}" for metric, model in backbones.items()), ""]
    lines += ["## models", "", *(f"- {row}: {model}" for row, model in models.items()), ""]
    return "\n".join(lines)


def _table(first: str, rows: Mapping[str, Mapping[str, Any]], backbones: Backbones) -> list[str]:
    metrics = [name for name in METRICS if any(name in cells for cells in rows.values())]
    headings = [f"{name}<br>{_short(backbones[name])}" if name in backbones else name for name in metrics]
    return [
        f"| {first} | {' | '.join(headings)} |",
        f"|---|{'---|' * len(metrics)}",
        *(
            f"| {name} | {' | '.join(cell_text(cells.get(metric)) for metric in metrics)} |"
            for name, cells in rows.items()
        ),
    ]


def _short(backbone: str) -> str:
    return re.sub(r"@(\w{" + str(SHORT) + r"})\w+", r"@\1", backbone)


def cell_text(cell: Mapping[str, float | None] | None) -> str:
    """`0.731 [0.702, 0.760] (0.004)`; a dash for a number that a row does not have."""
    if cell is None:
        return "-"
    text = f"{cell['mean']:.3f}"
    if cell["low"] is not None:
        text += f" [{cell['low']:.3f}, {cell['high']:.3f}]"
    if cell.get("seed_std") is not None:
        text += f" ({cell['seed_std']:.3f})"
    return text


def as_parquet(scores: Scores, backbones: Backbones) -> bytes:
    """One line per image; equal scores give equal bytes under one version of pyarrow."""
    texts, whole = ("object", "row", "kind", "name"), ("prompt", "seed", "noise_seed", "references")
    fields = [
        *(pa.field(name, pa.string()) for name in texts),
        *(pa.field(name, pa.int64()) for name in whole),
        *(
            pa.field(
                name,
                pa.bool_() if name == "object_found" else pa.float64(),
                metadata={"backbone": backbones[name]} if name in backbones else None,
            )
            for name in METRICS
        ),
    ]
    schema = pa.schema(fields)
    table = pa.table({name: [score[name] for score in scores] for name in schema.names}, schema=schema)
    out = pa.BufferOutputStream()
    pq.write_table(table, out, compression="zstd")
    return out.getvalue().to_pybytes()
