"""Identity within generated sets: the full method, without warping, without warping and shared attention.

    python -m benchmarks.identity [--objects 60] [--seeds 0 1 2] [--folder DIR]

The comparison of thesis Table 5.5 (rigid), on the miniature with open captions: they leave the colours open, so that a
prompt alone does not decide who the object is. Each seed has objects, prompts, views and noise of its own; within a
seed all variants start from the same. Images are scored on the object alone, cut out by its rendered mask: mean cosine
between the images of a set by the identity encoder, and the affinity of their colour histograms, which no trained net
takes part in. `renders` are the views themselves: what a perfectly consistent set would reach.
"""

import argparse
import dataclasses
import tempfile
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from benchmarks.common import markdown, run_pipeline
from configs.schema import load_resolved
from data.ids import seed_for
from data.images import decode_png
from data.records import PromptRecord, RenderRecord
from data.stage import StageContext
from flows.graph import RECIPE_FILE
from models import registry
from models.generator import SetRequest
from tasks import generate

VARIANTS: dict[str, dict[str, object]] = {
    "full": {},
    "full, mask not dilated": {"mask_dilation": 1},
    "no warping": {"warp": "none"},
    "no warping, no MSA": {"warp": "none", "msa": False},
}
CEILING = "renders"
MEASURES = ("identity", "colour")
RESAMPLES = 2000
BINS = 8

Scores = dict[str, dict[str, np.ndarray]]
"""variant -> measure -> one value per set."""


def histogram(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Shares of 8 x 8 x 8 RGB cells among the object's pixels; image uint8 (H, W, 3), mask bool (H, W)."""
    cells = np.ravel_multi_index(tuple((image[mask] // (256 // BINS)).T), (BINS,) * 3)
    return np.bincount(cells, minlength=BINS**3) / max(1, len(cells))


def affinity(images: np.ndarray, masks: np.ndarray) -> float:
    """Mean Bhattacharyya coefficient of the histograms of every two images of a set: 1 for equal colours."""
    found = [histogram(image, mask) for image, mask in zip(images, masks, strict=True)]
    return float(np.mean([np.sqrt(one * other).sum() for one, other in combinations(found, 2)]))


def load_sets(ctx: StageContext) -> tuple[list[SetRequest], list[np.ndarray]]:
    """Requests as the generate stage makes them, and the rendered views (K, H, W, 3) of the same sets."""
    requests, renders = [], []
    for sample in ctx.read("render", generate.training_sets(ctx)):
        render = RenderRecord.model_validate(sample.record)
        prompts = PromptRecord.model_validate(next(ctx.read("prompts", [render.object_id])).record).prompts
        chosen = generate.prompts_of_set(prompts, render.set_id, ctx.recipe.render.views_per_set)
        requests.append(generate.request_of(ctx, sample, render, chosen))
        views = [decode_png(sample.files[f"{view}.rgb.png"])[..., :3] for view in range(len(render.views))]
        renders.append(np.stack(views) if views else np.empty(0))
    return requests, renders


def measure(workspace: Path, seed: int, objects: int) -> Scores:
    """Scores of all variants on the sets of one seed."""
    settings = [f"seed={seed}", f"assets.count={objects}", "assets.eval_share=0.1", "generate.warp=latents"]
    for stage in ("prompts", "render"):
        run_pipeline(workspace, "miniature", stage, 2, settings)
    recipe = load_resolved(workspace / RECIPE_FILE)
    ctx = StageContext("generate", recipe, workspace, "benchmark", ("prompts", "render"))
    requests, renders = load_sets(ctx)
    model = registry.load(recipe.models.generator, "cpu", recipe.generate.dtype)
    identity = registry.load(recipe.models.identity, "cpu", "float32")
    scores: Scores = {}
    for name, changes in {**VARIANTS, CEILING: None}.items():
        if changes is None:
            made = renders
        else:
            changed = dataclasses.replace(generate.settings_of(ctx), **changes)
            made = []
            for start in range(0, len(requests), recipe.generate.batch_sets):
                batch = requests[start : start + recipe.generate.batch_sets]
                made += [each.images for each in model.generate_many(batch, changed)]
        same = []
        for images, request in zip(made, requests, strict=True):
            embedded = identity.embed(list(images), list(request.masks), background=False)
            same.append(float(np.mean([one @ other for one, other in combinations(embedded, 2)])))
        colours = [affinity(images, request.masks) for images, request in zip(made, requests, strict=True)]
        scores[name] = {"identity": np.array(same), "colour": np.array(colours)}
        print(f"seed {seed}, {name}: " + ", ".join(f"{key} {own.mean():.3f}" for key, own in scores[name].items()))
    return scores


def interval(gaps: np.ndarray, seed: int) -> tuple[float, float]:
    """95 % bootstrap interval of the mean."""
    rng = np.random.default_rng(seed)
    means = gaps[rng.integers(len(gaps), size=(RESAMPLES, len(gaps)))].mean(axis=1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def tables(by_seed: dict[int, Scores]) -> str:
    """Means per seed and over all with their spread over seeds; paired differences of neighbouring variants."""
    parts = []
    for measure_name in MEASURES:
        rows = []
        for name in (*VARIANTS, CEILING):
            means = [scores[name][measure_name].mean() for scores in by_seed.values()]
            spread = f"{np.std(means, ddof=1):.3f}" if len(means) > 1 else "-"
            rows.append([name, *(f"{mean:.3f}" for mean in means), f"{np.mean(means):.3f}", spread])
        head = [measure_name, *(f"seed {seed}" for seed in by_seed), "mean", "deviation over seeds"]
        gaps = []
        for better, worse in (("full", "no warping"), ("no warping", "no warping, no MSA")):
            paired = [scores[better][measure_name] - scores[worse][measure_name] for scores in by_seed.values()]
            together = np.concatenate(paired)
            low, high = interval(together, seed_for(0, "benchmark", better + measure_name))
            label = f"{better} - ({worse})"
            gaps.append(
                [label, *(f"{own.mean():+.3f}" for own in paired), f"{together.mean():+.3f} [{low:+.3f}, {high:+.3f}]"]
            )
        differences = ["difference", *(f"seed {seed}" for seed in by_seed), "mean over sets [95 %]"]
        parts += [markdown(head, rows), markdown(differences, gaps)]
    return "\n\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=60, help="per seed; one in ten is held out and not generated")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=None, help="for the workspaces; default: a temporary folder")
    options = parser.parse_args(arguments)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="syncd-identity-"))
    by_seed = {seed: measure(folder / f"seed-{seed}", seed, options.objects) for seed in options.seeds}
    sets = sum(len(scores["full"]["identity"]) for scores in by_seed.values())
    print(f"\n{sets} sets of the miniature, open captions\n\n{tables(by_seed)}")


if __name__ == "__main__":
    main()
