"""What a simulation is made of, and its workspace: the project's stage graph with stages that only sleep."""

import json
import sys
import time
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from configs.errors import ConfigError
from configs.load import load_recipe
from configs.schema import Recipe
from data.ids import canonical_json
from data.shards import write_atomic
from data.stage import StageContext
from flows.workspace import PROJECT, prepare_workspace

FILE = "simulation.json"
PACKAGE = "flows.simulation.stages"
STAGES = ("assets", "prompts", "render", "generate", "score", "select", "shard", "train", "report")
"""All but the evaluation, whose size is that of a benchmark, whatever the number of objects."""


@dataclass(frozen=True)
class World:
    """`sleep_s`: how long every shard pretends to work; every `failing`-th object is found corrupt."""

    objects: int
    sleep_s: float = 0.0
    failing: int = 500


def recipe_of(name: str, objects: int, overrides: tuple[str, ...] = ()) -> Recipe:
    """The recipe, for so many objects of a source that need not be there."""
    return load_recipe(name, (*overrides, f"assets.count={objects}"))


def chosen_stages(until: str | None) -> tuple[str, ...]:
    """All up to that one; ConfigError if the simulation has no such stage."""
    if until is None:
        return STAGES
    if until not in STAGES:
        raise ConfigError(f"--until is {until}; the simulation has the stages {', '.join(STAGES)}")
    return STAGES[: STAGES.index(until) + 1]


def prepare(folder: Path, world: World, recipe: Recipe, stages: tuple[str, ...] = STAGES) -> Path:
    """A workspace as `syncd run --workspace` makes one, with these stages of the simulation."""
    workspace = prepare_workspace(folder, recipe)
    write_world(workspace, world, stages)
    return workspace


def write_world(workspace: Path, world: World, stages: tuple[str, ...] = STAGES) -> None:
    write_atomic(workspace / "dvc.yaml", yaml.safe_dump({"stages": stanzas(stages)}).encode())
    write_atomic(workspace / FILE, canonical_json(asdict(world)))


def stanzas(stages: tuple[str, ...]) -> dict[str, Any]:
    """Those stages of the project's dvc.yaml with their params and their deps on each other, and other commands."""
    known = yaml.safe_load((PROJECT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    found = {}
    for name in stages:
        deps = [path for path in known[name].get("deps", []) if _stage_of(path) in stages]
        command = f"{sys.executable} -m flows.simulation.measured run {name}"
        found[name] = {**known[name], "cmd": command, **({"deps": deps} if deps else {})}
    return found


def _stage_of(path: str) -> str:
    """`artifacts/STAGE/index.json` or `artifacts/provenance/STAGE.intoto.json`"""
    folder, name = path.split("/")[1:]
    return name.split(".")[0] if folder == "provenance" else folder


@lru_cache(maxsize=4)
def _world(path: Path) -> World:
    return World(**json.loads(path.read_bytes()))


def world_of(workspace: Path) -> World:
    return _world(workspace / FILE)


def work(ctx: StageContext) -> None:
    """What a stage's work is here: the time it takes."""
    time.sleep(world_of(ctx.workspace).sleep_s)
