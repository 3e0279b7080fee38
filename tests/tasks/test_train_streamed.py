"""A training whose dataset is in a store: the checkpoint of a training from disk, to the byte."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import stage_runs
import torch
from generated_sets import random_set
from s3_server import SLOW_DOWN, Request, S3Server, s3_server
from tiny_checkpoint import SIDE, recipe_of
from tiny_dataset import write_dataset

from configs.schema import Recipe
from data import store as store_module
from data.origin import set_origin
from data.shards import ShardIndex, sha256_file
from data.store import Store
from models.header import FILE_NAME
from tasks import train

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as running:
        yield running


def trained(workspace: Path, recipe: Recipe) -> ShardIndex:
    return stage_runs.run_stage(train, stage_runs.context("train", recipe, workspace, ("shard",)))


def test_weights_and_ledger_are_those_of_a_training_from_disk(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "PAUSES_SECONDS", (0.0,))
    recipe = recipe_of(tmp_path / "flux")
    disk, streamed = tmp_path / "disk", tmp_path / "streamed"
    here = write_dataset(disk, [random_set(f"mug-{n}", n, size=SIDE) for n in range(8)], recipe)
    expected = trained(disk, recipe)

    there = Store(f"{server.make_bucket()}/shard/0123")
    for path in here.glob("*.tar"):
        there.add(path.name, path, sha256_file(path))
    folder = streamed / "artifacts" / "shard"
    folder.mkdir(parents=True)
    for name in ("index.json", "card.json"):
        shutil.copy(here / name, folder)
    set_origin(folder, there.url)
    asked: set[str] = set()

    def at_first(request: Request) -> tuple[str, bytes] | None:
        if request[1] in asked:
            return None
        asked.add(request[1])
        return SLOW_DOWN

    server.fault = at_first
    assert trained(streamed, recipe) == expected
    assert len(asked) == 4, "every shard came from the store, at the second try"
    weights, ledger = ("artifacts/train/" + name for name in (FILE_NAME, "ledger.jsonl"))
    for name in (weights, ledger):
        assert (streamed / name).read_bytes() == (disk / name).read_bytes()
