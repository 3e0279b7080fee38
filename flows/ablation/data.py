"""`syncd ablate data`: rows of the data pipeline against each other, on the same objects, prompts, views and noise.

Every seed has a workspace of its own. Rows differ in the generate section alone, so the stages before are made once,
and shards of a row that were finished before are taken as they are: a stopped ablation goes on where it was.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import ConfigError
from configs.load import load_recipe
from configs.schema import Recipe
from data.images import decode_mask, decode_png
from data.outside_text import csv_text
from data.records import ScoreRecord
from data.shards import Sample, load_index, read_all, write_atomic
from flows.ablation.page import Figures, Mark, Part, as_html, as_markdown, draw
from flows.ablation.rows import Rows, as_overrides, chosen_rows, groups_of
from flows.graph import load_graph
from flows.history import receipts_in, work_folder
from flows.inputs import resolve_paths
from flows.workspace import locked, prepare_workspace
from models import registry
from models.evaluation.ablation import MEASURES, Run, difference, share_of, summary
from models.scorers.frame import colour_affinity
from models.scorers.pairs import cosine_pairs, mean_of_others

LAST_STAGE = "select"
BASE, CEILING = "full", "renders"
TABLE = "ablation.csv"
PER_IMAGE = ("quality", "clip_text")
"""Measures that are taken from the scores as they are."""
TITLES = {
    "identity": "identity",
    "identity_masked": "identity, background masked",
    "colour": "affinity of colours",
    "quality": "quality",
    "clip_text": "image and prompt",
}


def rows_of(branch: str, wanted: Sequence[str]) -> Rows:
    """Row -> recipe changes. `wanted`: groups or rows of configs/ablations.yaml; the base row is always first.

    ConfigError for a name that is neither.
    """
    groups = groups_of(branch)
    return chosen_rows(groups, [BASE, *wanted])


def ablate(
    recipe: str,
    overrides: Sequence[str],
    wanted: Sequence[str],
    seeds: Sequence[int],
    folder: Path,
    run_stage: Callable[[str, Path], object],
    tell: Callable[[str], None] = lambda line: None,
    device: str = "cpu",
) -> list[Run]:
    """Run every row under every seed, up to selection, each stage by `run_stage(stage, workspace)`.

    `device`: of the measuring. The table of the runs so far is in `folder` after each of them. Raises ConfigError for
    a recipe whose rows cannot be compared, and what stages raise; finished shards are kept.
    """
    base = load_recipe(recipe, tuple(overrides))
    branch = "deformable" if base.assets.in_words else "rigid"
    if base.assets.in_words and base.models.segmenter is None:
        raise ConfigError("models.segmenter is not set; rows of objects without mesh are compared by its masks")
    look = _Look(base, device)
    runs = []
    for row, changes in rows_of(branch, wanted).items():
        for seed in seeds:
            variant = load_recipe(recipe, (*overrides, f"seed={seed}", *as_overrides(changes)))
            runs.append(_run(row, seed, variant, folder / f"seed-{seed}", run_stage, look))
            means = ", ".join(f"{measure} {runs[-1].mean(measure):.3f}" for measure in MEASURES[:3])
            tell(f"{row}, seed {seed}: {len(runs[-1].values)} sets, {means}")
            write_atomic(folder / TABLE, as_csv(runs).encode())
    return runs + ([_ceiling(seed, folder / f"seed-{seed}", look) for seed in seeds] if branch == "rigid" else [])


def _run(
    row: str, seed: int, recipe: Recipe, folder: Path, run_stage: Callable[[str, Path], object], look: "_Look"
) -> Run:
    workspace = prepare_workspace(folder, resolve_paths(recipe, Path.cwd(), folder.resolve()))
    with locked(workspace):
        for stage in load_graph(workspace).until(LAST_STAGE):
            run_stage(stage, workspace)
    artifacts = workspace / "artifacts"
    scored = {
        sample.key: ScoreRecord.model_validate(sample.record)
        for sample in read_all(artifacts / "score", load_index(artifacts / "score"))
    }
    values, shown = {}, []
    for sample in read_all(artifacts / "generate", load_index(artifacts / "generate")):
        if sample.key in scored:
            record = scored[sample.key]
            images, masks = _pictures(sample, len(record.images), "png")
            own = {name: float(np.mean([getattr(image, name) for image in record.images])) for name in PER_IMAGE}
            masks = look.objects(images) if recipe.assets.in_words else masks
            shown += [mask.any() for mask in masks]
            values[sample.key] = own | look.alike(images, masks)
    if not values:
        raise ConfigError(f"ablation: {row}, seed {seed}: no set was scored; take more objects (--objects)")
    selected = load_index(artifacts / LAST_STAGE).summary
    signature = load_index(artifacts / "generate").signature
    receipts = receipts_in(work_folder(workspace, "generate", signature))
    seconds = sum(float(receipt.run.get("seconds", 0.0)) for receipt in receipts)
    yields = (selected["image_yield"], selected["set_yield"])
    return Run(row, seed, values, *yields, seconds, float(np.mean(shown)))


def _ceiling(seed: int, folder: Path, look: "_Look") -> Run:
    """The rendered views that the sets were generated from, which certainly show one object, before no background."""
    artifacts = folder / "artifacts"
    keys = set(load_index(artifacts / "score").keys)
    values = {}
    for sample in read_all(artifacts / "render", load_index(artifacts / "render")):
        if sample.key in keys:
            images, masks = _pictures(sample, len(sample.record["views"]), "rgb.png")
            alike = look.alike([image[..., :3] for image in images], masks)
            values[sample.key] = {name: alike[name] for name in ("identity_masked", "colour")}
    return Run(CEILING, seed, values, None, None, None, 1.0)


def _pictures(sample: Sample, count: int, ending: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    files = sample.files
    return (
        [decode_png(files[f"{place}.{ending}"]) for place in range(count)],
        [decode_mask(files[f"{place}.mask.png"]) for place in range(count)],
    )


class _Look:
    """How alike the objects of a set are: one measure for rows whose own masks differ."""

    def __init__(self, recipe: Recipe, device: str) -> None:
        self._segmenter = recipe.models.segmenter and registry.load(recipe.models.segmenter, device, "float32")
        self._identity = registry.load(recipe.models.identity, device, "float32")

    def objects(self, images: list[np.ndarray]) -> list[np.ndarray]:
        """Where the segmenter finds the object; an empty mask where it finds none."""
        return self._segmenter.masks(images)

    def alike(self, images: list[np.ndarray], masks: list[np.ndarray]) -> dict[str, float]:
        """Means over all pairs of images that show an object, of crops with their background, without, and of colours;
        nothing for fewer than two such images."""
        shown = [pair for pair in zip(images, masks, strict=True) if pair[1].any()]
        if len(shown) < 2:
            return {}
        images, masks = ([pair[part] for pair in shown] for part in (0, 1))
        crops, cutouts = (self._identity.embed(images, masks, background=background) for background in (True, False))
        return {
            "identity": float(mean_of_others(cosine_pairs(crops)).mean()),
            "identity_masked": float(mean_of_others(cosine_pairs(cutouts)).mean()),
            "colour": colour_affinity(images, masks),
        }


def write_tables(runs: Sequence[Run], folder: Path, title: str) -> list[Path]:
    """ablation.csv (one line a run), ablation.md and ablation.html (table and chart) in `folder`."""
    seeds = ", ".join(map(str, sorted({run.seed for run in runs})))
    text, part = f"Seeds {seeds}. {note(runs)}", Part("", *table(runs), chart(runs))
    paths = [folder / name for name in (TABLE, "ablation.md", "ablation.html")]
    write_atomic(paths[0], as_csv(runs).encode())
    write_atomic(paths[1], as_markdown(title, text, [part]).encode())
    write_atomic(paths[2], as_html(title, text, [part]).encode())
    write_atomic(folder / "ablation.png", part.picture)
    return paths


def as_csv(runs: Sequence[Run]) -> str:
    lines: list[list[object]] = [["row", "seed", "sets", *MEASURES]]
    lines[0] += ["found", "image_yield", "set_yield", "generate_seconds"]
    for run in runs:
        means = [f"{run.mean(measure):.6f}" if run.has(measure) else "" for measure in MEASURES]
        yields = ["" if share is None else f"{share:.4f}" for share in (run.found, run.image_yield, run.set_yield)]
        seconds = "" if run.seconds is None else f"{run.seconds:.1f}"
        lines.append([run.row, run.seed, len(run.values), *means, *yields, seconds])
    return csv_text(lines)


def table(runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: mean and 95 % interval of every measure, kept shares, difference from the base row."""
    head = ["row", "sets", *(TITLES[measure] for measure in MEASURES), "object found", "images kept", "sets kept"]
    head += [f"identity, masked, minus {BASE}"]
    lines = []
    for row in dict.fromkeys(run.row for run in runs):
        count = sum(len(run.values) for run in runs if run.row == row)
        own = [run for run in runs if run.row == row]
        shares = [share_of([getattr(run, name) for run in own]) for name in ("found", "image_yield", "set_yield")]
        gap = "" if row == BASE else _signed(difference(runs, row, BASE, "identity_masked"))
        cells = [str(summary(runs, row, measure)) if own[0].has(measure) else "" for measure in MEASURES]
        lines.append([row, str(count), *cells, *("" if share is None else f"{share:.1%}" for share in shares), gap])
    return head, lines


def _signed(gap: Any) -> str:
    return f"{gap.mean:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]"


NOTE = (
    "Means over the images of a set, then over sets, with 95 % bootstrap intervals over objects. Within a seed all "
    "rows have the same objects, prompts, views and noise; differences are paired by set. Identity and colours are of "
    "images in which an object is found: by its render, or by the segmenter for objects without mesh."
)
CEILING_NOTE = " `renders`: the views that the sets were generated from; no method reaches more."


def note(runs: Sequence[Run]) -> str:
    """What a reader of the table must know."""
    return NOTE + (CEILING_NOTE if any(run.row == CEILING for run in runs) else "")


def chart(runs: Sequence[Run]) -> bytes:
    """PNG: mean and interval of every row, a panel for each of the first three measures."""
    panels: dict[str, dict[str, Mark]] = {}
    for measure in MEASURES[:3]:
        panels[TITLES[measure]] = {}
        for row in dict.fromkeys(run.row for run in runs):
            own = [run for run in runs if run.row == row and run.has(measure)]
            if own:
                found = summary(runs, row, measure)
                seeds = tuple(run.mean(measure) for run in own)
                panels[TITLES[measure]][row] = Mark(found.mean, found.low, found.high, seeds)
    return draw(Figures(panels))
