"""What the miniature's nets reach on objects they never saw, measured on the saved weights."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import SegformerForSemanticSegmentation

from configs.evaluation import Guidance
from configs.training import NoisedReferences
from data.shards import write_atomic
from models.customizer import CustomizeRequest, CustomizeSettings
from models.flux.generator import FluxGenerator
from models.generator import GenerateSettings, SetRequest
from models.miniature.dataset import SIZE, Views
from models.miniature.scenes import SCENES, full_caption
from models.miniature.training import clip, dino, quality, segmenter, vae
from models.miniature.training.captions import BLURRED
from models.miniature.training.common import Cost, write_json
from models.miniature.world import caption
from models.scorers.quality import QualityScorer
from models.unet.customizer import UNetCustomizer

RESULTS = "results.json"
SAMPLES = 200
STEPS = 24
TRUE_CFG = 2.5
BATCH = 50
UNET_SAMPLES = {
    "full caption": ("full", False),
    "category": ("category", False),
    "category and image": ("category", True),
}
"""Samples of the U-Net -> detail of the caption, and whether the render is the image prompt."""

Results = dict[str, dict[str, float]]


def costs_of(folder: Path) -> dict[str, Cost]:
    """What every net of a folder of weights cost, by its results.json."""
    record = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    return {name: Cost(**cost) for name, cost in record["costs"].items()}


def write(
    out_dir: Path,
    work_dir: Path,
    held_out: Views,
    costs: Mapping[str, Cost],
    seed: int,
    kept: Sequence[str] = (),
) -> Results:
    """Evaluate the folders in `out_dir`; results.json and RESULTS.md go there, a sheet of samples to `work_dir`.

    `kept`: nets that were taken from earlier weights.
    """
    clip_net, dino_net = clip.load(out_dir / "clip"), dino.load(out_dir / "dino")
    seg_net = SegformerForSemanticSegmentation.from_pretrained(out_dir / "segmenter", dtype=torch.float32).eval()
    head = QualityScorer.from_pretrained(out_dir / "quality", "cpu", torch.float32).head
    autoencoder = vae.load(out_dir / "flux" / "vae")
    chosen = spread(held_out, min(SAMPLES, len(held_out)))
    samples = generate(out_dir / "flux", chosen, "full", seed)
    sheet(chosen, (samples, generate(out_dir / "flux", first(chosen, 32), "open", seed)), work_dir / "samples.png")
    by_unet = {name: generate_unet(out_dir / "unet", chosen, name, seed) for name in UNET_SAMPLES}
    sheet(chosen, tuple(by_unet.values()), work_dir / "samples_unet.png")
    results: Results = {
        "vae": vae.evaluate(autoencoder, held_out),
        "clip_real": clip.zero_shot(clip_net, held_out.images, held_out),
        "clip_samples": clip.zero_shot(clip_net, samples, chosen),
        **{f"clip_unet_{name}": clip.zero_shot(clip_net, own, chosen) for name, own in by_unet.items()},
        "dino": dino.evaluate(dino_net, held_out),
        "segmenter": {
            **segmenter.evaluate(seg_net, held_out),
            "iou_samples": segmenter.evaluate(seg_net, dataclasses.replace(chosen, images=samples))["iou"],
        },
        "quality": {
            **quality.evaluate(head, clip_net, held_out, seed),
            "samples_mean": round(float(head(clip.embed_images(clip_net, samples)).mean()), 3),
        },
    }
    sizes = folder_sizes(out_dir)
    record = {"results": results, "costs": {name: dataclasses.asdict(cost) for name, cost in costs.items()}}
    write_json(out_dir / RESULTS, {**record, "kept": list(kept), "megabytes": sizes})
    write_atomic(out_dir / "RESULTS.md", markdown(results, costs, kept, sizes, len(held_out)).encode())
    return results


def spread(views: Views, count: int) -> Views:
    """`count` views evenly over all."""
    return select(views, np.linspace(0, len(views) - 1, count).astype(int))


def first(views: Views, count: int) -> Views:
    return select(views, np.arange(min(count, len(views))))


def select(views: Views, rows: np.ndarray) -> Views:
    names = ("images", "masks", "depths", "objects", "scenes", "others")
    return dataclasses.replace(views, **{name: getattr(views, name)[rows] for name in names})


def generate(folder: Path, views: Views, detail: str, seed: int) -> np.ndarray:
    """One image per view, from its caption and its depth: uint8 (N, 64, 64, 3), each image on its own."""
    generator = FluxGenerator.from_pretrained(folder)
    settings = GenerateSettings(
        SIZE, SIZE, steps=STEPS, true_cfg_scale=TRUE_CFG, negative_prompt=BLURRED, msa=False, warp="none"
    )
    specs = views.specs()
    requests = [
        SetRequest(
            prompts=(prompt_of(views, row, caption(specs[views.objects[row]], detail)),),
            seeds=(seed * 100_003 + row,),
            depth=views.depths[row : row + 1].astype(np.float32) / 255,
        )
        for row in range(len(views))
    ]
    images = []
    for start in range(0, len(requests), BATCH):
        images += [made.images for made in generator.generate_many(requests[start : start + BATCH], settings)]
    return np.concatenate(images)


def generate_unet(folder: Path, views: Views, what: str, seed: int) -> np.ndarray:
    """One image per view by the U-Net without depth: uint8 (N, 64, 64, 3). `what` is one of UNET_SAMPLES."""
    customizer = UNetCustomizer.from_pretrained(folder, "cpu", torch.float32)
    detail, shown = UNET_SAMPLES[what]
    customizer.references = NoisedReferences(attention=not shown, mask=False, image=shown)
    settings = CustomizeSettings(
        SIZE, SIZE, STEPS, guidance=Guidance(form="plain", image_scale=TRUE_CFG - 1, text_scale=TRUE_CFG)
    )
    specs = views.specs()
    requests = [
        CustomizeRequest(
            prompt_of(views, row, caption(specs[views.objects[row]], detail)),
            seed * 100_003 + row,
            (views.images[row],) if shown else (),
        )
        for row in range(len(views))
    ]
    images: list[np.ndarray] = []
    for start in range(0, len(requests), BATCH):
        images += customizer.generate_many(requests[start : start + BATCH], settings)
    return np.stack(images)


def prompt_of(views: Views, row: int, object_caption: str) -> str:
    return full_caption(object_caption, SCENES[views.scenes[row]], views.other(row))


def sheet(views: Views, samples: Sequence[np.ndarray], path: Path) -> None:
    """Rows of renders and, below them, each kind of `samples`: 32 images of 16 columns, 3 times as big."""
    count = min(32, *map(len, samples)) // 16 * 16
    if not count:
        return
    rows: list[np.ndarray] = []
    for start in range(0, count, 16):
        for stack in (views.images, *samples):
            rows.append(np.concatenate(list(stack[start : start + 16]), axis=1))
    image = Image.fromarray(np.concatenate(rows))
    image.resize((image.width * 3, image.height * 3), Image.Resampling.NEAREST).save(path)


def folder_sizes(out_dir: Path) -> dict[str, float]:
    """Megabytes of safetensors per folder."""
    return {
        folder.name: round(sum(path.stat().st_size for path in folder.rglob("*.safetensors")) / 1e6, 2)
        for folder in sorted(out_dir.iterdir())
        if folder.is_dir()
    }


def markdown(
    results: Results, costs: Mapping[str, Cost], kept: Sequence[str], sizes: Mapping[str, float], views: int
) -> str:
    lines = [
        "# Miniature weights: cost and results",
        "",
        "Written by the command that trained them (`syncd miniature train`). All figures are the miniature's, on "
        f"{views} renders of objects no net was trained on: shapes of their own out of the same families; a "
        "combination of category, colours and pattern may have been seen in another shape. Nothing here says anything "
        "about full-size models.",
        "",
        "| net | steps | samples | wall-clock minutes | last loss |",
        "|---|---|---|---|---|",
    ]
    for name, cost in costs.items():
        lines.append(f"| {name} | {cost.steps} | {cost.samples} | {cost.seconds / 60:.1f} | {cost.loss:g} |")
    lines += ["", "Minutes were measured on two shared CPU cores with other work running.", ""]
    lines += [f"Kept from earlier weights, not trained in this run: {', '.join(kept)}.", ""] if kept else []
    lines += _table(["folder", "MB (float16)"], [*sizes.items(), ("all", round(sum(sizes.values()), 2))])
    real, made = results["clip_real"], results["clip_samples"]
    by_unet = [results[f"clip_unet_{name}"] for name in UNET_SAMPLES]
    lines += ["## Text and image", ""]
    lines += [
        "Zero-shot accuracy of CLIP in naming one attribute, on renders and on generated samples (full captions, "
        f"depth, {STEPS} steps, true CFG {TRUE_CFG}, independent images); and of the U-Net, which knows no depth: from "
        "full captions, from the category alone, and from the category with the render as image prompt.",
        "",
    ]
    lines += _table(
        ["attribute", "renders", "samples", *(f"U-Net, {name}" for name in UNET_SAMPLES)],
        [(kind, real[kind], made[kind], *(own[kind] for own in by_unet)) for kind in real],
    )
    for title, name in (
        ("Autoencoder", "vae"),
        ("Identity", "dino"),
        ("Segmenter", "segmenter"),
        ("Quality", "quality"),
    ):
        lines += [f"## {title}", "", *_table(["measure", "value"], list(results[name].items()))]
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return [*lines, *(f"| {' | '.join(str(cell) for cell in row)} |" for row in rows), ""]
