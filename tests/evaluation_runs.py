"""Small evaluate runs: a tiny model trained for three steps, rendered views and prompts of made-up objects."""

from pathlib import Path
from typing import Any

import numpy as np
import stage_runs
import tiny_flux
import tiny_models
import torch
from generated_sets import random_set
from tiny_dataset import write_dataset

from configs.load import load_recipe
from configs.schema import Recipe
from data.images import encode_png
from data.records import Prompt, PromptRecord, RenderRecord, ViewRecord
from data.shards import ShardIndex, read_all, write_atomic
from data.stage import StageContext
from models.evaluation.record import EvaluationRecord
from tasks import evaluate, train

SIDE = 32
FACT = {"question": "which colour?", "choices": ["a red mug", "a blue mug"], "answer": "a red mug"}


def small_recipe(root: Path) -> Recipe:
    torch.set_num_threads(1)
    refs = {
        "customizer": tiny_flux.flux_ref(root / "flux"),
        "clip": tiny_models.ref_of(tiny_models.clip_folder(root / "clip"), "clip"),
        "identity": tiny_models.ref_of(tiny_models.identity_folder(root / "dino"), "dinov2"),
        "segmenter": tiny_models.ref_of(tiny_models.segmenter_folder(root / "segmenter"), "segformer"),
    }
    whole = load_recipe("miniature", ("train.steps=3", "train.batch=2", "train.lora_rank=4", "train.learning_rate=0.5"))
    section = {"objects": 0, "references": (1, 3), "seeds": (0, 1), "steps": 2, "shard_size": 1}
    return whole.model_copy(
        update={
            "models": whole.models.model_copy(update=refs),
            "evaluate": whole.evaluate.model_copy(update=section),
        }
    )


def train_small(workspace: Path, recipe: Recipe) -> Path:
    write_dataset(workspace, [random_set(f"mug-{n}", n, size=SIDE) for n in range(2)], recipe)
    stage_runs.run_stage(train, stage_runs.context("train", recipe, workspace, ("shard",)))
    return workspace


def build_workspace(
    workspace: Path,
    recipe: Recipe,
    trained: Path,
    renders: list[Any],
    prompts: list[Any],
    held_out: list[str] | None = None,
) -> Path:
    for stage, samples in (("render", renders), ("prompts", prompts)):
        stage_runs.write_input(workspace, stage, samples, recipe)
    path = workspace / "artifacts" / "render" / "index.json"
    index = ShardIndex.model_validate_json(path.read_bytes())
    summary = {"held_out_sets": [key for key, _, _ in renders] if held_out is None else held_out}
    write_atomic(path, index.model_copy(update={"summary": summary}).model_dump_json().encode())
    (workspace / "artifacts" / "train").symlink_to(trained / "artifacts" / "train")
    return workspace


def rendered(object_id: str, seed: int, views: int = 3, number: int = 0) -> tuple[str, RenderRecord, dict[str, bytes]]:
    rng = np.random.default_rng(seed)
    files = {}
    for place in range(views):
        rgba = rng.integers(0, 256, (SIDE, SIDE, 4), dtype=np.uint8)
        rgba[..., 3] = 0
        rgba[4:12, 3:11, 3] = 255
        files[f"{place}.rgb.png"] = encode_png(rgba)
        files[f"{place}.mask.png"] = encode_png(rgba[..., 3] > 0)
    view = ViewRecord(camera={}, near=0.0, far=1.0, area=0.25, azimuth_deg=0.0, elevation_deg=0.0)
    set_id = f"{object_id}-s{number}"
    record = RenderRecord(
        set_id=set_id,
        object_id=object_id,
        split="eval",
        category="mug",
        licence="CC0-1.0",
        mesh_sha256="0" * 64,
        views=[view] * views,
        overlaps={},
    )
    return set_id, record, files


def prompts_of(object_id: str, kinds: tuple[str, ...] = ("background", "property")) -> tuple[str, PromptRecord, dict]:
    words = {"background": "a red mug on the beach", "property": "a blue mug", "scene": "a mug in the forest"}
    prompts = [Prompt(text=words[kind], kind=kind, facts=[FACT]) for kind in kinds]
    record = PromptRecord(
        object_id=object_id, split="eval", category="mug", caption="a mug", writer="grammar", prompts=prompts
    )
    return object_id, record, {}


def context_of(workspace: Path, recipe: Recipe) -> StageContext:
    return stage_runs.context("evaluate", recipe, workspace, ("train", "render", "prompts"))


def evaluated(workspace: Path, recipe: Recipe) -> tuple[dict[str, EvaluationRecord], dict[str, dict], ShardIndex]:
    ctx = context_of(workspace, recipe)
    index = stage_runs.run_stage(evaluate, ctx)
    samples = list(read_all(ctx.output_dir("evaluate"), index))
    records = {sample.key: EvaluationRecord.model_validate(sample.record) for sample in samples}
    return records, {sample.key: sample.files for sample in samples}, index
