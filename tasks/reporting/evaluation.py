"""The evaluation tables and example pictures: every row on the same prompts and the same noise."""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from data.shards import Sample
from data.stage import StageContext
from models.evaluation.files import cell_text
from models.evaluation.record import METRICS, EvaluatedImage, EvaluationRecord
from tasks.reporting.charts import line_chart
from tasks.reporting.pictures import Picture, picture
from tasks.reporting.pipeline import cut_digests, read_file
from tasks.reporting.sets import spaced

FILE, NORMS = "metrics.json", "guidance.csv"
MAX_EXAMPLES = 8
ROWS = {
    "base": "base model, no references",
    "copy": "first reference, copied",
    "ours": "ours",
    "plain": "plain guidance",
    "ip_adapter": "IP-Adapter",
    "ip_adapter_guided": "IP-Adapter, our guidance",
    "no_attention": "ours without shared attention",
    "no_mask": "ours without mask",
    "no_image": "ours without global image",
    "dreambooth": "DreamBooth LoRA, tuned on each object",
    "custom_diffusion": "Custom Diffusion, tuned on each object",
}
"""What the page calls the rows of the evaluation itself."""
CHARTED = ("ours", "plain")
TITLES = {"background": "Background-change prompts", "property": "Property-change prompts", "all": "All prompts"}
Cell = Mapping[str, float | None]


@dataclass(frozen=True)
class TableRow:
    cells: list[str]
    marked: bool
    """One of our rows."""


@dataclass(frozen=True)
class Table:
    title: str
    header: list[str]
    rows: list[TableRow]


@dataclass(frozen=True)
class ExampleImage:
    method: str
    picture: Picture
    scores: str


@dataclass(frozen=True)
class Example:
    """One prompt of one object: its references and the image of every row, all from one noise."""

    object_id: str
    category: str
    prompt: str
    kind: str
    seed: int
    references: list[Picture]
    images: list[ExampleImage]


@dataclass(frozen=True)
class EvaluationView:
    subjects: str
    note: str
    tables: list[Table]
    guidance: list[Markup]
    """Norms of the guidance vectors, before any scaling."""
    examples: list[Example]


def view(ctx: StageContext) -> EvaluationView | None:
    """What the evaluate stage found; None if it had no object."""
    index = ctx.index("evaluate")
    if not index.keys:
        return None
    metrics = json.loads(read_file(ctx, "evaluate", FILE))
    rows, differences = in_order(metrics)
    short = {name: cut_digests(model) for name, model in metrics["backbones"].items()}
    tables = [kind_table(rows, kind, short) for kind in TITLES if any(kind in kinds for kinds in rows.values())]
    tables += [difference_table(pairs, kind) for kind, pairs in differences.items()]
    samples = ctx.read("evaluate", spaced(sorted(index.keys), MAX_EXAMPLES))
    whole = next(kinds["all"] for kinds in rows.values() if kinds)
    return EvaluationView(
        subjects=metrics["subjects"],
        note=(
            f"{whole['objects']} {metrics['subjects']}, {whole['images']} images a row. Mean [95 % bootstrap interval "
            "over objects], in round brackets the standard deviation over seeds. Identity: masked cosine to the "
            "references; geometric: mean of identity and text of each image; copy_paste: cosine of the background to "
            "that of the nearest reference; diversity: 1 - cosine between seeds; clipped: share of values at 0 or 255. "
            f"The model behind a number stands beside its name. Images are made by {makers(rows, metrics['models'])}."
        ),
        tables=tables,
        guidance=guidance_charts(read_file(ctx, "evaluate", NORMS)),
        examples=[example(sample, number) for number, sample in enumerate(samples)],
    )


def in_order(metrics: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Rows, and differences by kind of prompt, in the order of the recipe's rows: the file has them by name."""
    place = {row: number for number, row in enumerate(metrics["order"])}

    def places(pair: tuple[str, Any]) -> list[int]:
        return [place[row] for row in pair[0].split(" - ")]

    rows = {row: metrics["rows"][row] for row in metrics["order"]}
    kinds = [kind for kind in TITLES if kind in metrics["differences"]]
    return rows, {kind: dict(sorted(metrics["differences"][kind].items(), key=places)) for kind in kinds}


def makers(rows: Mapping[str, Any], models: Mapping[str, str]) -> str:
    """`MODEL (row; row)`, each model once."""
    of_model: dict[str, list[str]] = {}
    for row in rows:
        of_model.setdefault(cut_digests(models[row]), []).append(row_name(row))
    return ", ".join(f"{model} ({'; '.join(names)})" for model, names in of_model.items() if model != "none")


def row_name(row: str) -> str:
    """`ours-3` as `ours, 3 references`; rows that were made elsewhere keep their name."""
    kind, _, count = row.partition("-")
    said = ROWS.get(kind, kind)
    return f"{said}, {count} reference{'s' if count != '1' else ''}" if count.isdigit() else said


def guidance_charts(data: bytes) -> list[Markup]:
    """Of a guidance.csv: mean norms of both guidance vectors step by step, of ours and plain with most references."""
    seen: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = {}
    for line in csv.DictReader(io.StringIO(data.decode())):
        series = seen.setdefault((line["row"], line["kind"]), {"image |g_I|": [], "text |g_c|": []})
        for points, norm in zip(series.values(), (line["image_norm"], line["text_norm"]), strict=True):
            points.append((float(line["step"]), float(norm)))
    rows = [row for row in dict.fromkeys(row for row, _ in seen) if row.partition("-")[0] in CHARTED]
    last = {row.partition("-")[0]: row for row in sorted(rows, key=lambda row: int(row.partition("-")[2]))}
    return [
        line_chart(f"{ROWS[row.partition('-')[0]]}: {kind} prompts", series, "step")
        for (row, kind), series in seen.items()
        if row in last.values()
    ]


def kind_table(rows: Mapping[str, Mapping[str, Any]], kind: str, backbones: Mapping[str, str]) -> Table:
    cells = {row: kinds[kind] for row, kinds in rows.items() if kind in kinds}
    metrics = [name for name in METRICS if any(name in cell for cell in cells.values())]
    return Table(
        title=TITLES[kind],
        header=["", *(f"{name}: {backbones[name]}" if name in backbones else name for name in metrics)],
        rows=[
            TableRow([row_name(row), *(cell_text(cell.get(name)) for name in metrics)], row.startswith("ours-"))
            for row, cell in cells.items()
        ],
    )


def difference_table(differences: Mapping[str, Mapping[str, Cell]], kind: str) -> Table:
    """Differences of two rows on one kind of prompt, paired by object, prompt and seed."""
    metrics = [name for name in METRICS if any(name in cells for cells in differences.values())]
    rows = []
    for pair, cells in differences.items():
        first, second = pair.split(" - ")
        name = f"{row_name(first)}, less {row_name(second)}"
        rows.append(TableRow([name, *(signed_text(cells.get(metric)) for metric in metrics)], False))
    return Table(f"Differences, paired by image: {TITLES[kind].lower()}", ["", *metrics], rows)


def signed_text(cell: Cell | None) -> str:
    return ("+" if cell is not None and (cell["mean"] or 0) >= 0 else "") + cell_text(cell)


def example(sample: Sample, number: int) -> Example:
    """One prompt of one object at its first seed; background and property prompts take turns."""
    record = EvaluationRecord.model_validate(sample.record)
    kinds = list(dict.fromkeys(image.kind for image in record.images))
    chosen = next(image for image in record.images if image.kind == kinds[number % len(kinds)])
    alike = [image for image in record.images if (image.prompt, image.seed) == (chosen.prompt, chosen.seed)]
    return Example(
        object_id=record.object_id,
        category=record.category,
        prompt=record.prompts[chosen.prompt].text,
        kind=f"{chosen.kind} prompt",
        seed=chosen.seed,
        references=[
            picture(sample.files[f"ref.{place}.png"], f"reference {place + 1} of {record.object_id}")
            for place in range(record.references)
        ],
        images=[_image(sample, image) for image in alike],
    )


def _image(sample: Sample, image: EvaluatedImage) -> ExampleImage:
    name = row_name(image.row)
    said = f"identity {image.identity:.2f}, text {image.text:.2f}"
    return ExampleImage(
        method=name,
        picture=picture(sample.files[f"{image.name}.png"], f"{name}: {sample.key}"),
        scores=said if image.object_found else said + ", no object found",
    )
