"""`syncd ablate model`: rows of training and evaluation against each other, on the same objects, prompts and noise.

Every seed has a workspace and a dataset of its own. A row names what it changes in the recipe and which row of the
evaluation it is; rows that change the same share a training and an evaluation. Stages that a change does not reach, and
shards that were finished before, are taken as they are: a stopped ablation goes on where it was.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import ConfigError
from configs.load import load_recipe
from configs.schema import Recipe
from data.ids import canonical_json
from data.outside_text import csv_text
from data.shards import load_index, read_all, write_atomic
from flows.ablation.page import Figures, Mark, Part, as_html, as_markdown, draw
from flows.ablation.rows import Rows, as_overrides, chosen_rows, groups_of
from flows.ablation.run import RunStage
from flows.graph import load_graph
from flows.inputs import resolve_paths
from flows.workspace import locked, prepare_workspace
from models.evaluation.record import EvaluationRecord
from models.evaluation.tables import ALL, Cell, aggregate, differences
from tasks.reporting.sheet import image_grid

BRANCH = "model"
LAST_STAGE = "evaluate"
TABLE = "ablation.csv"
MEASURES = {
    "identity": "identity (MDINOv2-I)",
    "text": "text",
    "geometric": "geometric mean",
    "copy_paste": "copy-paste",
    "saturation": "saturation",
    "clipped": "clipped values",
}
COMPARED = ("identity", "geometric")
"""Measures whose difference to the first row stands in the table."""
SEEDS_APART = 1000
"""Seed of an image in the tables: that of the run times this, plus the evaluation's own."""
SHOWN = 8
"""Objects whose images are shown, spread over all."""
ROW, X, LINE, AXIS = "row", "x", "line", "axis"
"""Keys of a row in configs/ablations.yaml that are no change: the row of the evaluation, and its place in a sweep."""


@dataclass(frozen=True)
class Run:
    """One row under one seed."""

    row: str
    seed: int
    sets: int
    """That it was trained on."""
    categories: int
    loss: float
    """Mean over the last tenth of the training."""
    scores: Sequence[Mapping[str, Any]]
    """Of every image, as `models.evaluation.tables` takes them."""
    pictures: Mapping[str, tuple[bytes, bytes]]
    """Object -> PNGs of its first reference and of one image; the prompt changes from object to object."""

    def mean(self, measure: str) -> float | None:
        """Over objects; None if no image has a number of it."""
        cell = aggregate(self.scores, [self.row])[self.row][ALL].get(measure)
        return None if cell is None else cell["mean"]


def ablate(
    recipe: str,
    overrides: Sequence[str],
    wanted: Sequence[str],
    seeds: Sequence[int],
    folder: Path,
    run_stage: RunStage,
    tell: Callable[[str], None] = lambda line: None,
) -> list[Run]:
    """Run every row under every seed, up to the evaluation, each stage by `run_stage(stage, workspace)`.

    The table of the runs so far is in `folder` after each training. Raises ConfigError for rows that the recipe's model
    has not, and what stages raise; finished shards are kept.
    """
    groups = groups_of(BRANCH)
    rows = chosen_rows(groups, wanted)
    given = load_recipe(recipe, tuple(overrides)).evaluate.references
    trainings: dict[bytes, Rows] = {}
    for own_group in groups.values():
        # Rows of a table share a yardstick, whatever number of references each of them is given.
        measured = max(*given, *(_kind_of(own[ROW])[1] for own in own_group.values()))
        for name in own_group.keys() & rows.keys():
            rows[name] = rows[name] | {"evaluate.identity_references": measured}
    for name, own in rows.items():
        trainings.setdefault(canonical_json(_changes(own)), {})[name] = own
    variants = [
        (seed, load_recipe(recipe, (*overrides, f"seed={seed}", *_overrides(together))), together)
        for together in trainings.values()
        for seed in seeds
    ]
    runs: list[Run] = []
    for seed, variant, together in variants:
        made = _runs(seed, variant, together, folder / f"seed-{seed}", run_stage)
        for run in made:
            tell(f"{run.row}, seed {seed}: " + ", ".join(f"{name} {run.mean(name)}" for name in list(MEASURES)[:3]))
        runs += made
        write_atomic(folder / TABLE, as_csv(runs).encode())
    order = list(rows)
    return sorted(runs, key=lambda run: (order.index(run.row), run.seed))


def _changes(own: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in own.items() if key not in (ROW, X, LINE, AXIS)}


def _overrides(together: Rows) -> list[str]:
    """The changes that rows share, and an evaluation of just these rows."""
    changes = _changes(next(iter(together.values())))
    kinds, counts = zip(*(_kind_of(own[ROW]) for own in together.values()), strict=True)
    rows = {"evaluate.rows": list(dict.fromkeys(kinds)), "evaluate.references": sorted(set(counts))}
    return as_overrides(changes | rows)


def _kind_of(row: str) -> tuple[str, int]:
    """`ours-3` as ("ours", 3); a row without number has one reference."""
    kind, _, count = row.partition("-")
    return kind, int(count or 1)


def _runs(seed: int, recipe: Recipe, together: Rows, folder: Path, run_stage: RunStage) -> list[Run]:
    workspace = prepare_workspace(folder, resolve_paths(recipe, Path.cwd(), folder.resolve()))
    with locked(workspace):
        for stage in load_graph(workspace).until(LAST_STAGE):
            run_stage(stage, workspace)
    artifacts = workspace / "artifacts"
    published, trained = (load_index(artifacts / stage) for stage in ("shard", "train"))
    categories = {sample.record["category"] for sample in read_all(artifacts / "shard", published)}
    made = list(read_all(artifacts / LAST_STAGE, load_index(artifacts / LAST_STAGE)))
    records = [EvaluationRecord.model_validate(sample.record) for sample in made]
    runs = []
    for name, own in together.items():
        scores = [
            {
                **image.model_dump(exclude={"guidance_norms"}),
                "object": record.object_id,
                "row": name,
                "seed": SEEDS_APART * seed + image.seed,
            }
            for record in records
            for image in record.images
            if image.row == own[ROW]
        ]
        if not scores:
            raise ConfigError(f"ablation: {name}, seed {seed}: no object was evaluated; take more (--objects)")
        pictures = {}
        for place, (sample, record) in enumerate(zip(made, records, strict=True)):
            names = [image.name for image in record.images if image.row == own[ROW]]
            if names:
                shown = names[place % len(names)]
                pictures[record.object_id] = (sample.files["ref.0.png"], sample.files[f"{shown}.png"])
        loss = trained.summary["loss_last_tenth"]
        runs.append(Run(name, seed, len(published.keys), len(categories), loss, scores, pictures))
    return runs


def write_tables(runs: Sequence[Run], wanted: Sequence[str], folder: Path, title: str) -> list[Path]:
    """ablation.csv (one line a run), ablation.md, ablation.html, GROUP.png and GROUP_images.png in `folder`."""
    groups = groups_of(BRANCH)
    parts: dict[str, Part] = {}
    left = set(chosen_rows(groups, wanted))
    for group, rows in groups.items():
        own = {name: rows[name] for name in rows if name in left}
        if own:
            shown = [run for run in runs if run.row in own]
            parts[group] = Part(f"{group}: rows", *table(shown), draw(figures(shown, own)), image_grid(images(shown)))
    seeds = ", ".join(map(str, sorted({run.seed for run in runs})))
    text = f"Seeds {seeds}. {NOTE}"
    paths = [folder / name for name in (TABLE, "ablation.md", "ablation.html")]
    write_atomic(paths[0], as_csv(runs).encode())
    write_atomic(paths[1], as_markdown(title, text, list(parts.values())).encode())
    write_atomic(paths[2], as_html(title, text, list(parts.values())).encode())
    for group, part in parts.items():
        write_atomic(folder / f"{group}.png", part.picture)
        write_atomic(folder / f"{group}_images.png", part.images)
    return paths


NOTE = (
    "Means over the images of an object, then over objects, with 95 % bootstrap intervals over objects. Within a seed "
    "all rows have the same objects, prompts and noise; differences to the first row of a table are paired by object, "
    "prompt and seed."
)


def as_csv(runs: Sequence[Run]) -> str:
    lines: list[list[object]] = [["row", "seed", "sets", "categories", "loss", "images", *MEASURES]]
    for run in runs:
        means = [run.mean(measure) for measure in MEASURES]
        cells = ["" if mean is None else f"{mean:.6f}" for mean in means]
        lines.append([run.row, run.seed, run.sets, run.categories, f"{run.loss:.6f}", len(run.scores), *cells])
    return csv_text(lines)


def table(runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: mean and 95 % interval of every measure, and the difference of identity and geometric mean."""
    names = list(dict.fromkeys(run.row for run in runs))
    scores = [score for run in runs for score in run.scores]
    cells = {name: kinds[ALL] for name, kinds in aggregate(scores, names).items()}
    gaps = differences(scores, [(name, names[0]) for name in names[1:]]).get(ALL, {})
    measures = [measure for measure in MEASURES if any(measure in own for own in cells.values())]
    head = ["row", "sets trained on", *(MEASURES[measure] for measure in measures)]
    head += [f"{MEASURES[measure]} minus {names[0]}" for measure in COMPARED]
    lines = []
    for name in names:
        sets = sorted({run.sets for run in runs if run.row == name})
        gap = gaps.get(f"{name} - {names[0]}", {})
        line = [name, " to ".join(map(str, dict.fromkeys((sets[0], sets[-1]))))]
        line += [_interval(cells[name][measure]) if measure in cells[name] else "" for measure in measures]
        line += [_interval(gap[measure], "+") if measure in gap else "" for measure in COMPARED]
        lines.append(line)
    return head, lines


def _interval(cell: Cell, sign: str = "") -> str:
    if cell["low"] is None:
        return f"{cell['mean']:{sign}.3f}"
    return f"{cell['mean']:{sign}.3f} [{cell['low']:{sign}.3f}, {cell['high']:{sign}.3f}]"


def images(runs: Sequence[Run]) -> dict[str, list[bytes]]:
    """References, then every row's images of the same objects and prompts, of the first seed."""
    first = min(run.seed for run in runs)
    own = {run.row: run.pictures for run in runs if run.seed == first}
    common = [name for name in next(iter(own.values())) if all(name in pictures for pictures in own.values())]
    shown = [common[place * len(common) // SHOWN] for place in range(SHOWN)] if len(common) > SHOWN else common
    rows = {row: [pictures[name][1] for name in shown] for row, pictures in own.items()}
    return {"reference": [next(iter(own.values()))[name][0] for name in shown], **rows}


def figures(runs: Sequence[Run], rows: Rows) -> Figures:
    """Identity, text and saturation of every row; as lines if the rows are the points of a sweep."""
    names = list(dict.fromkeys(run.row for run in runs))
    cells = aggregate([score for run in runs for score in run.scores], names)
    panels: dict[str, dict[str, Mark]] = {}
    for measure in ("identity", "text", "saturation"):
        panels[MEASURES[measure]] = {}
        for name in names:
            cell = cells[name][ALL][measure]
            seeds = tuple(float(run.mean(measure) or np.nan) for run in runs if run.row == name)
            low, high = (cell["mean"] if cell[end] is None else cell[end] for end in ("low", "high"))
            panels[MEASURES[measure]][name] = Mark(cell["mean"], low, high, seeds)
    if not all(X in rows[name] for name in names):
        return Figures(panels)
    places = {name: (rows[name].get(LINE, ""), float(rows[name][X])) for name in names}
    return Figures(panels, places, next(own[AXIS] for own in rows.values() if AXIS in own))
