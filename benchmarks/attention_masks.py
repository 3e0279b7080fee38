"""Masks from text-to-image attention: how well they find the object, on the miniature.

    python -m benchmarks.attention_masks [--objects 48] [--seeds 0 1 2] [--folder DIR] [--picture FILE]

Intersection over union with the object's pixels, of masks from the attention to the noun (as in the paper) and to the
whole description of the object. With depth the rendered silhouette is the truth, since the image
follows it; without depth (the deformable branch itself) the segmenter's mask is the nearest thing there is. Beside the
attention: the best that whole tokens can do, the mask of another image of the sets (shuffled), and the whole image;
a method that finds nothing scores like one of the last two. `--picture` draws creatures of the first seed: the images,
what the attention to the noun and to the looks marks, and the segmenter's masks.
"""

import argparse
import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.common import markdown, run_pipeline
from configs.load import load_resolved
from data.records import PromptRecord, RenderRecord
from data.stage import StageContext
from flows.graph import RECIPE_FILE
from models import registry
from models.generator import ImageSet, SetRequest
from models.miniature.world import POSABLE
from tasks import generate

ROWS = ("attention to the noun", "attention to the looks", "whole tokens", "shuffled", "whole image")
CREATURES = f"assets.categories=[{','.join(POSABLE)}]"
CONDITIONS = (
    ("rigid, depth: rendered silhouette", "miniature", ["assets.caption_detail=full"]),
    ("creatures, depth: rendered silhouette", "miniature", ["assets.caption_detail=full", CREATURES]),
    ("creatures, no depth: segmenter", "miniature-deformable", []),
)
"""Objects and the truth for their masks, recipe, and changes of it."""
TOKEN_PIXELS = 8
DRAWN = 12
TINT = (255, 40, 40)


def iou(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(B,) intersection over union of bool masks (B, H, W); 0 where both are empty."""
    both = (found & truth).sum((1, 2))
    return both / np.maximum(1, (found | truth).sum((1, 2)))


def best_tokens(truth: np.ndarray, side: int) -> np.ndarray:
    """Masks of whole tokens of `side` pixels, those at least half full of `truth` (B, H, W)."""
    batch, height, width = truth.shape
    shares = truth.reshape(batch, height // side, side, width // side, side).mean((2, 4))
    return (shares >= 0.5).repeat(side, axis=1).repeat(side, axis=2)


def drawn(images: np.ndarray, rows: Sequence[np.ndarray]) -> Image.Image:
    """A column per image (B, H, W, 3): as it is, then tinted where each bool mask (B, H, W) is; twice as big."""
    tinted = [np.where(mask[..., None], images // 2 + np.uint8(TINT) // 2, images) for mask in rows]
    grid = np.concatenate([np.concatenate(list(row), axis=1) for row in (images, *tinted)])
    picture = Image.fromarray(grid)
    return picture.resize((picture.width * 2, picture.height * 2), Image.Resampling.NEAREST)


def measure(
    folder: Path, recipe_name: str, changes: Sequence[str], seed: int, objects: int, picture: Path | None
) -> dict[str, float]:
    """Mean IoU of every row over all images of one seed. Images of a set share nothing, so that masks do no harm."""
    settings = [f"seed={seed}", f"assets.count={objects}", *changes]
    for stage in ("prompts", "render"):
        run_pipeline(folder, recipe_name, stage, 2, settings)
    recipe = load_resolved(folder / RECIPE_FILE)
    ctx = StageContext("generate", recipe, folder, "benchmark", ("prompts", "render"))
    written = {s.key: PromptRecord.model_validate(s.record) for s in ctx.read("prompts", ctx.index("prompts").keys)}
    requests, renders = [], []
    for sample in ctx.read("render", generate.training_sets(ctx)):
        render = RenderRecord.model_validate(sample.record)
        own = written[render.object_id]
        chosen = generate.prompts_of_set(own.prompts, render.set_id, recipe.render.views_per_set)
        requests.append(generate.request_of(ctx, sample, render, chosen, own.appearance))
        renders.append(render)
    looks = [written[render.object_id].appearance or written[render.object_id].caption for render in renders]
    noun = _generated(ctx, [_searched(*pair) for pair in zip(requests, [r.category for r in renders], strict=True)])
    told = _generated(ctx, [_searched(*pair) for pair in zip(requests, looks, strict=True)])
    if requests[0].masks is None:
        segmenter = registry.load(recipe.models.segmenter, "cpu", "float32")
        truth = np.stack(segmenter.masks(list(np.concatenate([each.images for each in told]))))
    else:
        truth = np.concatenate([request.masks for request in requests])
    found = {
        "attention to the noun": np.concatenate([each.masks for each in noun]),
        "attention to the looks": np.concatenate([each.masks for each in told]),
        "whole tokens": best_tokens(truth, TOKEN_PIXELS),
        "shuffled": np.roll(truth, recipe.render.views_per_set, axis=0),
        "whole image": np.ones_like(truth),
    }
    if picture is not None:
        images = np.concatenate([each.images for each in told])[:: max(1, 3 * objects // DRAWN)][:DRAWN]
        masks = [found["attention to the noun"], found["attention to the looks"], truth]
        drawn(images, [own[:: max(1, 3 * objects // DRAWN)][:DRAWN] for own in masks]).save(picture)
    scores = {name: float(iou(masks, truth).mean()) for name, masks in found.items()}
    print(f"{recipe_name}, seed {seed}: " + ", ".join(f"{name} {score:.3f}" for name, score in scores.items()))
    return scores


def _searched(request: SetRequest, subject: str) -> SetRequest:
    return dataclasses.replace(request, masks=None, correspondences=None, subject=subject)


def _generated(ctx: StageContext, requests: list[SetRequest]) -> list[ImageSet]:
    model = registry.load(ctx.recipe.models.generator, "cpu", ctx.recipe.generate.dtype)
    settings = dataclasses.replace(generate.settings_of(ctx), msa=False, warp="none")
    made: list[ImageSet] = []
    for start in range(0, len(requests), ctx.recipe.generate.batch_sets):
        made += model.generate_many(requests[start : start + ctx.recipe.generate.batch_sets], settings)
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=48, help="per seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=None, help="for the workspaces; default: a temporary folder")
    parser.add_argument("--picture", type=Path, default=None, help="PNG of creatures and their masks")
    options = parser.parse_args(arguments)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="syncd-masks-"))
    table = []
    for number, (condition, recipe, changes) in enumerate(CONDITIONS):
        by_seed = []
        for seed in options.seeds:
            picture = options.picture if (number, seed) == (len(CONDITIONS) - 1, options.seeds[0]) else None
            place = folder / f"{number}-{seed}"
            by_seed.append(measure(place, recipe, changes, seed, options.objects, picture))
        for row in ROWS:
            values = [scores[row] for scores in by_seed]
            spread = f"{np.std(values, ddof=1):.3f}" if len(values) > 1 else "-"
            table.append([condition, row, *(f"{value:.3f}" for value in values), f"{np.mean(values):.3f}", spread])
    head = [
        "objects, depth: truth",
        "mask",
        *(f"seed {seed}" for seed in options.seeds),
        "mean IoU",
        "deviation over seeds",
    ]
    print(f"\n{options.objects} objects of the miniature per seed\n\n{markdown(head, table)}")


if __name__ == "__main__":
    main()
