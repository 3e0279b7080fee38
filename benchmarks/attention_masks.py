"""Masks from text-to-image attention: how well they find the object, on the miniature.

    python -m benchmarks.attention_masks [--objects 48] [--seeds 0 1 2] [--folder DIR]

Intersection over union with the object's pixels. With depth the rendered silhouette is the truth, since the image
follows it; without depth (the deformable branch itself) the segmenter's mask is the nearest thing there is. Beside the
attention: the best that whole tokens can do, the mask of another image of the sets (shuffled), and the whole image;
a method that finds nothing scores like one of the last two.
"""

import argparse
import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.common import markdown, run_pipeline
from benchmarks.identity import load_sets
from configs.schema import load_resolved
from data.stage import StageContext
from flows.graph import RECIPE_FILE
from models import registry
from models.generator import ImageSet, SetRequest
from tasks import generate

ROWS = ("attention", "whole tokens", "shuffled", "whole image")


def iou(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(B,) intersection over union of bool masks (B, H, W); 0 where both are empty."""
    both = (found & truth).sum((1, 2))
    return both / np.maximum(1, (found | truth).sum((1, 2)))


def best_tokens(truth: np.ndarray, side: int) -> np.ndarray:
    """Masks of whole tokens of `side` pixels, those at least half full of `truth` (B, H, W)."""
    batch, height, width = truth.shape
    shares = truth.reshape(batch, height // side, side, width // side, side).mean((2, 4))
    return (shares >= 0.5).repeat(side, axis=1).repeat(side, axis=2)


def measure(folder: Path, recipe_name: str, seed: int, objects: int) -> dict[str, float]:
    """Mean IoU of every row over all images of one seed."""
    settings = [f"seed={seed}", f"assets.count={objects}"]
    for stage in ("prompts", "render"):
        run_pipeline(folder, recipe_name, stage, 2, settings)
    recipe = load_resolved(folder / RECIPE_FILE)
    ctx = StageContext("generate", recipe, folder, "benchmark", ("prompts", "render"))
    requests = load_sets(ctx)[0]
    truths = [request.masks for request in requests]
    if truths[0] is not None:
        requests = [_without_masks(request, sample) for request, sample in zip(requests, _categories(ctx), strict=True)]
    model = registry.load(recipe.models.generator, "cpu", recipe.generate.dtype)
    changed = dataclasses.replace(generate.settings_of(ctx), warp="none")
    made: list[ImageSet] = []
    for start in range(0, len(requests), recipe.generate.batch_sets):
        made += model.generate_many(requests[start : start + recipe.generate.batch_sets], changed)
    found = np.concatenate([each.masks for each in made])
    if truths[0] is None:
        segmenter = registry.load(recipe.models.segmenter, "cpu", "float32")
        truth = np.stack(segmenter.masks(list(np.concatenate([each.images for each in made]))))
    else:
        truth = np.concatenate(truths)
    rows = {
        "attention": found,
        "whole tokens": best_tokens(truth, model.token_pixels),
        "shuffled": np.roll(truth, recipe.render.views_per_set, axis=0),
        "whole image": np.ones_like(truth),
    }
    scores = {name: float(iou(masks, truth).mean()) for name, masks in rows.items()}
    print(f"{recipe_name}, seed {seed}: " + ", ".join(f"{name} {score:.3f}" for name, score in scores.items()))
    return scores


def _without_masks(request: SetRequest, category: str) -> SetRequest:
    return dataclasses.replace(request, masks=None, correspondences=None, subject=category)


def _categories(ctx: StageContext) -> list[str]:
    return [sample.record["category"] for sample in ctx.read("render", generate.training_sets(ctx))]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=48, help="per seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=None, help="for the workspaces; default: a temporary folder")
    options = parser.parse_args(arguments)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="syncd-masks-"))
    table = []
    for recipe, truth in (("miniature", "rendered silhouette"), ("miniature-deformable", "segmenter")):
        by_seed = [measure(folder / f"{recipe}-{seed}", recipe, seed, options.objects) for seed in options.seeds]
        for row in ROWS:
            values = [scores[row] for scores in by_seed]
            spread = f"{np.std(values, ddof=1):.3f}" if len(values) > 1 else "-"
            table.append([truth, row, *(f"{value:.3f}" for value in values), f"{np.mean(values):.3f}", spread])
    head = ["truth", "mask", *(f"seed {seed}" for seed in options.seeds), "mean IoU", "deviation over seeds"]
    print(f"\n{options.objects} objects of the miniature per seed\n\n{markdown(head, table)}")


if __name__ == "__main__":
    main()
