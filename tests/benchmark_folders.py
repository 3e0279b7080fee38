"""A tiny DreamBooth and a tiny DreamBench++, as they are published, and recipes that evaluate on the former."""

from pathlib import Path
from typing import Any

import numpy as np
from evaluation_runs import SIDE
from PIL import Image

from configs.schema import Recipe

PROMPTS = ["a {0} {1} in the snow", "a red {0} {1}"]
SUBJECTS = {"vase": "vase", "teapot": "teapot", "can": "can"}


def save(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def dreambooth(folder: Path) -> Path:
    """Three subjects of wide pictures, with masks by hand; the can has but one picture."""
    for seed, subject in enumerate(SUBJECTS):
        for place in range(1 if subject == "can" else 2):
            rng = np.random.default_rng(10 * seed + place)
            save(folder / "dataset" / subject / f"0{place}.png", rng.integers(0, 256, (SIDE, 48, 3), dtype=np.uint8))
            mask = np.zeros((SIDE, 48), dtype=bool)
            mask[8:24, 16:32] = True
            save(folder / "masks" / subject / f"0{place}.png", mask.astype(np.uint8) * 255)
    lines = [f"'{prompt}'.format(unique_token, class_token)" for prompt in PROMPTS]
    listed = "\n".join(["prompt_list = [", *lines, "]"])
    classes = "\n".join(f"{subject},{category}" for subject, category in SUBJECTS.items())
    text = f"Classes\n\nsubject_name,class\n{classes}\n\nObject Prompts\n{listed}\nLive Subject Prompts\n{listed}\n"
    (folder / "dataset" / "prompts_and_classes.txt").write_text(text)
    return folder


def dreambench_plus(folder: Path) -> Path:
    """Two objects of one picture each, with masks by hand."""
    for place in ("live_subject/animal/00", "object/03"):
        save(folder / "data" / "images" / f"{place}.jpg", np.full((SIDE, SIDE, 3), 90, np.uint8))
        captions = folder / "data" / "captions" / f"{place}.txt"
        captions.parent.mkdir(parents=True)
        captions.write_text("\n".join(["kitten", *(f"caption {number}" for number in range(9))]))
    for key in ("animal-00", "object-03"):
        save(folder / "masks" / key / f"{key[-2:]}.png", np.full((SIDE, SIDE), 255, np.uint8))
    return folder


def on_dreambooth(recipe: Recipe, folder: Path, **more: Any) -> Recipe:
    section = {
        "benchmark": "dreambooth",
        "benchmark_folder": str(folder / "dataset"),
        "reference_masks": str(folder / "masks"),
        "resolution": SIDE,
        "references": (2,),
        "seeds": (0,),
        "text_metric": "tifa",
        "questions": str(folder / "questions.json"),
        "metrics": ("clip_score", "clip_i", "dino", "dinov2_i", "copy_paste"),
        **more,
    }
    return recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update=section)})
