"""A checkpoint of a few training steps on the tiny FLUX folder, published like any other."""

from pathlib import Path

import stage_runs
import tiny_flux
import torch
from generated_sets import random_set
from tiny_dataset import write_dataset

from configs.load import load_recipe
from configs.schema import Recipe
from tasks import train

SIDE = 16
TRAINING = ("train.steps=3", "train.batch=2", "train.lora_rank=4", "train.learning_rate=0.5")


def recipe_of(folder: Path) -> Recipe:
    """The miniature's recipe on a tiny base that is built in `folder`."""
    torch.set_num_threads(1)
    whole = load_recipe("miniature", TRAINING)
    return whole.model_copy(
        update={"models": whole.models.model_copy(update={"customizer": tiny_flux.flux_ref(folder)})}
    )


def train_in(workspace: Path, recipe: Recipe) -> Path:
    """Folder of the train stage, after training on two random sets of 16 x 16 px."""
    write_dataset(workspace, [random_set(f"mug-{n}", n, size=SIDE) for n in range(2)], recipe)
    stage_runs.run_stage(train, stage_runs.context("train", recipe, workspace, ("shard",)))
    return workspace / "artifacts" / "train"
