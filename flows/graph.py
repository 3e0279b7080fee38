"""The stage graph, read from dvc.yaml: what each stage depends on, and the signature that follows from it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from configs.errors import ConfigError
from configs.schema import Models, Recipe
from configs.section import Section
from configs.yaml_text import parse_yaml
from data.provenance import signature_of
from data.shards import ShardError, sha256_file

RECIPE_FILE = "configs/recipe.yaml"
VERSIONS_FILE = "configs/versions.yaml"
INPUTS_FILE = "configs/inputs.yaml"


class UntrackedError(ConfigError):
    """A stage read a part of the recipe that dvc.yaml does not track for it or for one of its inputs."""


@dataclass(frozen=True)
class StageNode:
    name: str
    inputs: tuple[str, ...]
    params: tuple[tuple[str, tuple[str, ...]], ...]
    """Tracked keys by file, for example ("configs/recipe.yaml", ("seed", "models.clip"))."""

    def keys_of(self, file: str) -> tuple[str, ...]:
        return tuple(key for name, keys in self.params for key in keys if name == file)


@dataclass(frozen=True)
class Graph:
    """Stages in an order in which each comes after its inputs."""

    stages: tuple[StageNode, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(node.name for node in self.stages)

    def node(self, name: str) -> StageNode:
        for node in self.stages:
            if node.name == name:
                return node
        raise ConfigError(f"stage {name!r} is not in dvc.yaml; known: {', '.join(self.names)}")

    def ancestors(self, name: str) -> tuple[str, ...]:
        """All stages that `name` depends on, directly or not, in graph order."""
        wanted: set[str] = set()
        for node in reversed(self.stages):
            if node.name == name or node.name in wanted:
                wanted.update(node.inputs)
        return tuple(item for item in self.names if item in wanted)

    def descendants(self, name: str) -> tuple[str, ...]:
        return tuple(item for item in self.names if name in self.ancestors(item))

    def until(self, name: str | None) -> tuple[str, ...]:
        """The stages to run so that `name` is up to date; all of them for None."""
        return self.names if name is None else (*self.ancestors(name), self.node(name).name)


def load_graph(workspace: Path) -> Graph:
    """Parse `dvc.yaml`; ConfigError if it is missing or goes round in a circle."""
    path = workspace / "dvc.yaml"
    if not path.exists():
        raise ConfigError(f"{path}: missing; {workspace} is no workspace (syncd run --workspace DIR makes one)")
    try:
        stanzas = _read_yaml(path)["stages"]
        nodes = {name: _node(name, stanza, tuple(stanzas)) for name, stanza in stanzas.items()}
    except (TypeError, KeyError, AttributeError, IndexError) as error:
        raise ConfigError(f"{path}: not a pipeline of DVC ({error!r}); bring it back from git") from error
    ordered: dict[str, StageNode] = {}
    while len(ordered) < len(nodes):
        ready = [node for node in nodes.values() if node.name not in ordered and set(node.inputs) <= set(ordered)]
        if not ready:
            left = ", ".join(name for name in nodes if name not in ordered)
            raise ConfigError(f"{path}: these stages wait for each other: {left}")
        ordered[ready[0].name] = ready[0]
    return Graph(tuple(ordered.values()))


def _node(name: str, stanza: dict[str, Any], known: tuple[str, ...]) -> StageNode:
    inputs = []
    for dependency in stanza.get("deps", []):
        parts = dependency.split("/")
        if parts[0] == "artifacts" and parts[1] in known and parts[1] not in inputs:
            inputs.append(parts[1])
    params = [(file, tuple(keys)) for entry in stanza.get("params", []) for file, keys in entry.items()]
    return StageNode(name, tuple(inputs), tuple(params))


def tracked_values(node: StageNode, workspace: Path) -> dict[str, dict[str, Any]]:
    """The values that DVC tracks for this stage: file -> dotted key -> value."""
    values: dict[str, dict[str, Any]] = {}
    for file, keys in node.params:
        path = workspace / file
        if not path.exists():
            raise ConfigError(f"{path}: missing; write it with: syncd run --recipe NAME")
        content = _read_yaml(path) or {}
        values[file] = {key: _lookup(content, key, path) for key in keys}
    return values


def _read_yaml(path: Path) -> Any:
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: cannot be read as YAML ({reason[:200]}); bring it back from git") from error


def _lookup(content: Any, key: str, path: Path) -> Any:
    for part in key.split("."):
        if not isinstance(content, dict) or part not in content:
            raise ConfigError(f"{path}: {key} is missing; write the file again with: syncd run --recipe NAME")
        content = content[part]
    return content


def index_path(workspace: Path, stage: str) -> Path:
    return workspace / "artifacts" / stage / "index.json"


def input_digests(node: StageNode, workspace: Path) -> dict[str, str]:
    """sha256 of the index of every input; ShardError if an input has not finished."""
    digests = {}
    for name in node.inputs:
        path = index_path(workspace, name)
        if not path.exists():
            raise ShardError(f"{path}: missing; run the stage first: syncd run --until {name}")
        digests[name] = sha256_file(path)
    return digests


def stage_signature(graph: Graph, stage: str, workspace: Path) -> str:
    node = graph.node(stage)
    return signature_of(stage, tracked_values(node, workspace), input_digests(node, workspace))


class TrackedRecipe(Recipe):
    """A recipe that holds only what is tracked for a stage; reading anything else raises UntrackedError."""

    def __getattr__(self, item: str) -> Any:
        if item in Recipe.model_fields:
            raise UntrackedError(f"recipe.{item} is not among the params of this stage in dvc.yaml; list it there")
        return super().__getattr__(item)


class TrackedModels(Models):
    def __getattr__(self, item: str) -> Any:
        if item in Models.model_fields:
            raise UntrackedError(f"models.{item} is not among the params of this stage in dvc.yaml; list it there")
        return super().__getattr__(item)


def tracked_recipe(graph: Graph, stage: str, recipe: Recipe) -> Recipe:
    """The part of `recipe` that the signature of `stage` covers, its inputs' parts included."""
    keys = {key for name in (*graph.ancestors(stage), stage) for key in graph.node(name).keys_of(RECIPE_FILE)}
    whole = {key for key in keys if "." not in key}
    roles = {role for section, role in _split(keys - whole) if section == "models" and "models" not in whole}
    unknown = {key for key in keys - whole if not key.startswith("models.")}
    if unknown:
        raise ConfigError(f"dvc.yaml: {sorted(unknown)}: params name whole sections, or one role of models")
    values: dict[str, Section | str | int] = {key: getattr(recipe, key) for key in sorted(whole)}
    if roles:
        values["models"] = TrackedModels.model_construct(**{role: getattr(recipe.models, role) for role in roles})
    tracked = TrackedRecipe.model_construct(**values)
    for untracked in set(Recipe.model_fields) - set(values):
        tracked.__dict__.pop(untracked, None)  # model_construct fills in defaults
    return tracked


def _split(keys: set[str]) -> Iterator[tuple[str, str]]:
    for key in keys:
        section, _, rest = key.partition(".")
        yield section, rest
