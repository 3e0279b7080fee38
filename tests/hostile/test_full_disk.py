"""A disk that fills up, at every step of writing that a run takes: a clear error, nothing half there, and equal bytes
once there is space again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import audited_workspace
import numpy as np
import pytest
import torch
import yaml
from fake_workspace import RUNTIME, bare_workspace, digests
from full_disk import FullDisk
from PIL import Image

from configs.load import dump_recipe, load_recipe
from data.digests import DigestCache
from data.provenance import statement_path
from data.shards import Receipt, load_index, load_receipt, verify_file
from flows import engine, workspace
from flows.errors import error_line
from flows.runners import serial
from flows.worker import DiskFullError
from models.training.checkpoints import load_checkpoint, save_checkpoint
from tasks.sample import save_png

STAGES = ("assets",)
RECIPE = ("assets.count=4", "assets.shard_size=2")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "PAUSE_SECONDS", 0.0)
    # The reader in C: a run of these stages spends most of its time on reading YAML.
    monkeypatch.setattr(yaml, "SafeLoader", yaml.CSafeLoader)


def run(folder: Path) -> None:
    """What `syncd run` writes itself: the recipe, digests of inputs, two stages, and word of how they ended."""
    with workspace.locked(folder):
        text = workspace.RECIPE_HEADER + dump_recipe(load_recipe("miniature", RECIPE))
        workspace._write_if_changed(folder / "configs" / "recipe.yaml", text)
        cache = DigestCache.of_workspace(folder)
        cache.digest(folder / "dvc.yaml")
        cache.save()
        for stage in STAGES:
            engine.run_stage(stage, folder, RUNTIME, serial, package="fake_tasks")
            workspace.write_last_run(folder, stage, None)


def check_nothing_is_half_there(folder: Path) -> None:
    for stage in STAGES:
        out = folder / "artifacts" / stage
        if out.exists():
            index = load_index(out)
            for entry in [*index.shards, *index.files]:
                verify_file(out / entry.name, entry.bytes, entry.sha256)
        for path in (folder / "artifacts" / ".work" / stage).glob("*/[0-9]*.json"):
            receipt = Receipt.model_validate_json(path.read_bytes())
            assert load_receipt(path.parent, receipt.index, receipt.signature) == receipt
    for path in (folder / "artifacts").rglob("*.json"):
        json.loads(path.read_bytes())
    left = [path for path in folder.rglob("*") if path.name.endswith(".tmp") or path.name.endswith(".building")]
    assert left == []


def test_a_run_survives_a_full_disk_at_every_step_of_writing(tmp_path: Path, record_property: Callable) -> None:
    whole = bare_workspace(tmp_path / "whole", *RECIPE)
    shutil.copytree(whole, tmp_path / "bare")
    with FullDisk(whole) as disk:
        run(whole)
    expected = {stage: digests(whole, stage) for stage in STAGES}
    print(f"{disk.steps} steps of writing at {len(disk.sites)} places")
    record_property("steps", disk.steps)
    record_property("places", sorted(disk.sites))
    for step in range(1, disk.steps + 1):
        folder = tmp_path / f"full-{step}"
        shutil.copytree(tmp_path / "bare", folder)
        with FullDisk(folder, step) as full, pytest.raises((DiskFullError, OSError)) as caught:
            run(folder)
        assert full.was_full
        assert "no space left" in (line := error_line(caught.value)) and "\n" not in line, line
        check_nothing_is_half_there(folder)
        run(folder)
        assert {stage: digests(folder, stage) for stage in STAGES} == expected, step
        shutil.rmtree(folder)


def withdraw(folder: Path, stage: str) -> None:
    """As after a run that was stopped before it published: shards and receipts are there."""
    shutil.rmtree(folder / "artifacts" / stage, ignore_errors=True)
    statement_path(folder, stage).unlink(missing_ok=True)


@pytest.mark.parametrize("stage", audited_workspace.STAGES)
def test_a_stage_is_published_whole_or_not_at_all(finished: Path, tmp_path: Path, stage: str) -> None:
    folder = shutil.copytree(finished, tmp_path / "work", ignore=shutil.ignore_patterns(".prefect"))
    audited_workspace.run(folder, stage)  # The copy's cache of digests is written.
    expected = digests(folder, stage)
    withdraw(folder, stage)
    with FullDisk(folder) as disk:
        audited_workspace.run(folder, stage)
    assert digests(folder, stage) == expected
    print(f"{stage}: {disk.steps} steps of writing at {len(disk.sites)} places")
    # The first step at every place, and every third: each costs a publication.
    for step in sorted({*disk.sites.values(), *range(1, disk.steps + 1, 3)}):
        withdraw(folder, stage)
        with FullDisk(folder, step), pytest.raises((DiskFullError, OSError)) as caught:
            audited_workspace.run(folder, stage)
        assert "no space left" in (line := error_line(caught.value)) and "\n" not in line, (step, line)
        assert not (folder / "artifacts" / stage).exists() or digests(folder, stage) == expected, step
    audited_workspace.run(folder, stage)
    assert digests(folder, stage) == expected


def sample_of(folder: Path) -> None:
    save_png(
        Image.fromarray(np.arange(768, dtype=np.uint8).reshape(16, 16, 3)), {"settings": {}}, folder / "out" / "a.png"
    )


def checkpoint(folder: Path) -> None:
    for step in (1, 2, 3):
        save_checkpoint(folder / "checkpoints", step, {"weights": torch.full((8,), float(step))}, keep=1)


def reads(path: Path) -> None:
    if path.suffix == ".png":
        Image.open(path).load()
    else:
        load_checkpoint(path.parent, "cpu")


@pytest.mark.parametrize("write", [sample_of, checkpoint])
def test_files_beside_the_stages_are_whole_or_not_there(tmp_path: Path, write: Callable[[Path], None]) -> None:
    with FullDisk(tmp_path / "whole") as disk:
        write(tmp_path / "whole")
    expected = {path.relative_to(tmp_path / "whole"): path.read_bytes() for path in (tmp_path / "whole").rglob("*.p*")}
    for step in range(1, disk.steps + 1):
        folder = tmp_path / str(step)
        with FullDisk(folder, step), pytest.raises(OSError, match="No space left") as caught:
            write(folder)
        assert "no space left on the disk; free some space" in error_line(caught.value)
        files = [path for path in folder.rglob("*") if path.is_file()]
        for path in files:
            reads(path)
        assert not [path for path in files if path.name.startswith(".")]
        write(folder)
        assert {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.p*")} == expected
