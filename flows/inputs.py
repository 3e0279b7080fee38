"""Digests of the files that a recipe names (a folder of meshes, captions, lists), tracked in configs/inputs.yaml."""

import json
from pathlib import Path
from typing import Any

import yaml

from configs.schema import Assets, ConfigError, Recipe
from data.assets.files import files_below
from data.ids import canonical_json, digest_of
from data.shards import sha256_file, write_atomic
from flows.graph import INPUTS_FILE, RECIPE_FILE, Graph

PATH_FIELDS = ("folder", "captions", "uids", "digests")
HEADER = "# Digests of the files that the recipe names; written by syncd run, tracked by dvc.yaml.\n"


def resolve_paths(recipe: Recipe, base: Path, workspace: Path) -> Recipe:
    """Paths of `recipe.assets`, given relative to `base`, as absolute ones; inside the workspace relative to it."""
    named = {field: getattr(recipe.assets, field) for field in PATH_FIELDS if getattr(recipe.assets, field)}
    resolved = {field: _from_workspace((base / path).resolve(), workspace) for field, path in named.items()}
    return recipe.model_copy(update={"assets": recipe.assets.model_copy(update=resolved)})


def _from_workspace(path: Path, workspace: Path) -> str:
    return path.relative_to(workspace).as_posix() if path.is_relative_to(workspace) else path.as_posix()


def input_values(assets: Assets, workspace: Path) -> dict[str, Any]:
    """What configs/inputs.yaml should say: the digest of each file or folder that the recipe names."""
    cache = _Cache(workspace / "artifacts" / ".work" / "digests.json")
    found = {}
    for field in PATH_FIELDS:
        name = getattr(assets, field)
        if not name:
            continue
        path = workspace / name
        if not path.exists():
            raise ConfigError(
                f"assets.{field} is {path}: no such file or folder; set it with --set assets.{field}=PATH"
            )
        if workspace.is_relative_to(path):
            raise ConfigError(
                f"assets.{field} is {path}, and the workspace {workspace} lies in it; take a --workspace outside"
            )
        found[field] = cache.digest(path) if path.is_file() else _folder_digest(path, cache)
    cache.save()
    return {"assets": found}


def _folder_digest(folder: Path, cache: "_Cache") -> str:
    """Of all files but hidden ones, which no source reads."""
    return digest_of({name: cache.digest(folder / name) for name in files_below(folder)})


class _Cache:
    """sha256 by path, size and time of change, so that a folder of meshes is read once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, str] = json.loads(path.read_bytes()) if path.exists() else {}
        self.used: dict[str, str] = {}

    def digest(self, path: Path) -> str:
        stat = path.stat()
        key = f"{path}:{stat.st_size}:{stat.st_mtime_ns}"
        self.used[key] = self.known.get(key) or sha256_file(path)
        return self.used[key]

    def save(self) -> None:
        if self.used != self.known:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self.path, canonical_json(self.used))


def write_inputs(recipe: Recipe, workspace: Path) -> None:
    text = HEADER + yaml.safe_dump(input_values(recipe.assets, workspace))
    path = workspace / INPUTS_FILE
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_atomic(path, text.encode())


def check_inputs(graph: Graph, stage: str, recipe: Recipe, workspace: Path) -> None:
    """Raise ConfigError if files that the stage reads have changed since configs/inputs.yaml was written."""
    if not graph.node(stage).keys_of(INPUTS_FILE):
        return
    recorded = yaml.safe_load((workspace / INPUTS_FILE).read_text(encoding="utf-8"))
    found = input_values(recipe.assets, workspace)
    if recorded != found:
        raise ConfigError(
            f"{workspace / INPUTS_FILE} says {recorded['assets']}, the files that {RECIPE_FILE} names are now "
            f"{found['assets']}; start with syncd run, which records them"
        )
