"""Workspaces on the fake stages: `assets` and `prompts` if none are named, with the project's recipe and versions."""

import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from configs.load import CONFIGS, load_recipe
from configs.schema import Runtime
from data.revocation import Tombstone
from data.shards import sha256_file
from flows.workspace import PROJECT, prepare_workspace

TESTS = Path(__file__).resolve().parent
SMALL = ("assets.count=10", "assets.shard_size=3", "prompts.shard_size=3", "assets.max_failed_fraction=0.2")
PIPELINE = ("assets", "prompts")
RETRAINING = (*PIPELINE, "shard", "train", "evaluate")
RUNTIME = Runtime(workers=2, threads_per_worker=1, retries=2, min_free_disk_gb=0.0)


def bare_workspace(folder: Path, *overrides: str, stages: Sequence[str] = PIPELINE) -> Path:
    """Without DVC: enough for the engine."""
    (folder / "configs").mkdir(parents=True, exist_ok=True)
    shutil.copy(CONFIGS / "versions.yaml", folder / "configs" / "versions.yaml")
    shutil.copy(CONFIGS / "revoked.yaml", folder / "configs" / "revoked.yaml")
    (folder / "configs" / "inputs.yaml").write_text("assets: {}\nevaluate: {}\ntrain: {}\n")
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": fake_stages(stages)}))
    return activate(folder, *overrides)


def activate(folder: Path, *overrides: str) -> Path:
    from configs.load import dump_recipe

    (folder / "configs" / "recipe.yaml").write_text(dump_recipe(load_recipe("miniature", (*SMALL, *overrides))))
    return folder


def dvc_workspace(folder: Path, *overrides: str, stages: Sequence[str] = PIPELINE) -> Path:
    """A whole workspace as `syncd run --workspace` makes it, its stages running the fakes."""
    prepare_workspace(folder, load_recipe("miniature", (*SMALL, *overrides)))
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": fake_stages(stages)}))
    return folder


def fake_stages(names: Sequence[str]) -> dict[str, Any]:
    """Those of dvc.yaml, without what they read of stages that are not there."""
    stages = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"]
    command = f"{sys.executable} {TESTS / 'fake_stage.py'}"
    chosen = {name: {**stages[name], "cmd": f"{command} {name}"} for name in names}
    for stanza in chosen.values():
        if "deps" in stanza:
            stanza["deps"] = [path for path in stanza["deps"] if _stage_of(path) in names]
    return chosen


def _stage_of(path: str) -> str:
    parts = path.split("/")
    return parts[2].partition(".")[0] if parts[1] == "provenance" else parts[1]


def tombstone(object_id: str, checkpoints: tuple[str, ...] = ()) -> Tombstone:
    return Tombstone(
        object_id=object_id,
        split="train",
        reason="asked for by its author",
        date="2026-01-01T00:00:00+00:00",
        uri=f"fake:{object_id}",
        source_sha256="0" * 64,
        licence="CC-BY-4.0",
        sets=(),
        checkpoints=checkpoints,
    )


def make_trouble(folder: Path, **trouble: Any) -> None:
    (folder / "trouble.json").write_text(json.dumps(trouble))


def no_trouble(folder: Path) -> None:
    (folder / "trouble.json").unlink()
    (folder / "attempts.log").unlink(missing_ok=True)


def digests(folder: Path, stage: str) -> dict[str, str]:
    """sha256 of every file that a stage published."""
    root = folder / "artifacts" / stage
    return {path.relative_to(root).as_posix(): sha256_file(path) for path in sorted(root.rglob("*")) if path.is_file()}


def subprocess_environment() -> dict[str, str]:
    path = os.pathsep.join([str(PROJECT), str(TESTS), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path}
