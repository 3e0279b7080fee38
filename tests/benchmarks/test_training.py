"""The benchmark of the training step describes a training that can be opened."""

from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks.training import RECIPES, job_of, write_dataset
from configs.load import load_recipe
from data.shards import load_index
from models.training.job import TrainingJob


@pytest.mark.parametrize("name", RECIPES)
def test_a_job_is_the_recipes_training_in_few_steps(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(RECIPES[name])
    (tmp_path / "shard").mkdir()
    write_dataset(tmp_path / "shard", 32)
    options = Namespace(steps=3, batch=4, dtype="float32")
    job = job_of(recipe, tmp_path / "shard", tmp_path, options, 2, True)
    assert TrainingJob.model_validate_json(job.model_dump_json()) == job
    assert (job.section.steps, job.section.processes, job.settings.gradient_checkpointing) == (3, 2, True)
    assert job.section.lora_rank == recipe.train.lora_rank and job.base == recipe.models.customizer
    assert len(load_index(job.dataset).keys) == 16
