"""Recipes and runtimes from their files.

A recipe file may name another with `extends:` and override parts of it. `load_recipe` resolves that, fills in
defaults and model revisions, and rejects unknown keys and values out of range with an error that names the key,
the value and what is allowed.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from configs.errors import ConfigError
from configs.schema import Recipe, Runtime
from configs.section import Section
from configs.yaml_text import parse_yaml

CONFIGS = Path(__file__).resolve().parent
RUNTIME_VARIABLE = "SYNCD_RUNTIME"
Kind = TypeVar("Kind", bound=Section)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        loaded = parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path}: must be a mapping of sections, found {type(loaded).__name__}")
    return loaded


def merge(base: dict[str, Any], override: dict[str, Any]) -> dict[str, Any]:
    """`base` with `override` on top, mappings merged key by key; model entries are replaced whole."""
    merged = dict(base)
    for key, value in override.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def recipe_path(name: str) -> Path:
    """A path as it is, or the recipe of that name in configs/recipes/; ConfigError lists the known names."""
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    path = CONFIGS / "recipes" / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(item.stem for item in (CONFIGS / "recipes").glob("*.yaml")))
        raise ConfigError(f"recipe {name!r} is not known; known: {known}; or give the path of a .yaml file")
    return path


def _layers(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    if path.resolve() in seen:
        raise ConfigError(f"{path}: `extends` goes round in a circle")
    own = _read_yaml(path)
    parent = own.pop("extends", None)
    if parent is None:
        return own
    return merge(_layers(recipe_path(str(parent)), (*seen, path.resolve())), own)


def overridden(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Sections with `section.key=value` overrides on top, values in YAML; ConfigError for one of another form."""
    for override in overrides:
        key, found, value = override.partition("=")
        if not found:
            raise ConfigError(f"override {override!r}; write it as section.key=value")
        try:
            nested: Any = parse_yaml(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"override {override!r}: the value is not valid YAML; quote it") from error
        for part in reversed(key.strip().split(".")):
            nested = {part: nested}
        values = merge(values, nested)
    return values


def load_recipe(name: str, overrides: tuple[str, ...] = ()) -> Recipe:
    """Resolve a recipe by name or path, with `section.key=value` overrides (values in YAML).

    Raises ConfigError naming the file, key, value and allowed range.
    """
    path = recipe_path(name)
    values = _layers(path)
    values = overridden(values, overrides)
    registry = _read_yaml(CONFIGS / "models.yaml")
    if isinstance(values.get("models"), dict):
        values["models"] = {role: _model_entry(registry, path, role, entry) for role, entry in values["models"].items()}
    return validated(Recipe, values, str(path))


def _model_entry(registry: dict[str, Any], path: Path, role: str, entry: Any) -> Any:
    if not isinstance(entry, str):
        return entry
    if entry not in registry:
        known = ", ".join(sorted(registry))
        raise ConfigError(
            f"{path}: models.{role} is {entry!r}, which configs/models.yaml does not name; known: {known}"
        )
    return {"name": entry, **registry[entry]}


def load_resolved(path: Path) -> Recipe:
    """A recipe written by `dump_recipe`: complete, with nothing left to look up."""
    return validated(Recipe, _read_yaml(path), str(path))


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML, sections in the order of the schema."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)


def load_runtime(name: str | None = None) -> Runtime:
    """A runtime by path or name in configs/runtime/; else what SYNCD_RUNTIME holds (JSON); else `local`."""
    carried = os.environ.get(RUNTIME_VARIABLE)
    if name is None and carried:
        return validated(Runtime, parse_yaml(carried), RUNTIME_VARIABLE)
    name = name or "local"
    path = Path(name) if name.endswith((".yaml", ".yml")) else CONFIGS / "runtime" / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(item.stem for item in (CONFIGS / "runtime").glob("*.yaml")))
        raise ConfigError(f"runtime {name!r} is not known; known: {known}; or give the path of a .yaml file")
    return validated(Runtime, _read_yaml(path), str(path))


def validated(kind: type[Kind], values: Any, origin: str) -> Kind:
    """`values` as that kind of section; ConfigError names each key with its value and what is allowed."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        schema = kind.model_json_schema()
        raise ConfigError(f"{origin}: " + "; ".join(_explain(schema, item) for item in error.errors())) from error


def _explain(schema: dict[str, Any], error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = _node(schema, error["loc"][:-1]).get("properties", {})
        return f"{key} is not a known key; known here: {', '.join(sorted(known))}"
    if error["type"] == "missing":
        return f"{key} is missing"
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    return f"{key} is {error['input']!r}; allowed: {_allowed(_node(schema, error['loc'])) or error['msg']}"


def _node(schema: dict[str, Any], location: tuple[Any, ...]) -> dict[str, Any]:
    """The part of a JSON schema that describes `location`."""
    node = schema
    for part in (*location, None):
        while "$ref" in node:
            node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
        if part is not None:
            node = node.get("properties", {}).get(part) or node.get("items") or {}
    return node


def _allowed(node: dict[str, Any]) -> str:
    if "enum" in node:
        return ", ".join(str(value) for value in node["enum"])
    if "const" in node:
        return str(node["const"])
    bounds = {
        "minimum": "at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
    }
    words = [f"{text} {node[bound]:g}" for bound, text in bounds.items() if bound in node]
    if "minItems" in node:
        words.append(f"at least {node['minItems']} entry")
    if "pattern" in node:
        words.append(f"of the form {node['pattern']}")
    if "multipleOf" in node:
        words.append(f"multiples of {node['multipleOf']:g}")
    kind = {
        "integer": "whole numbers",
        "number": "numbers",
        "boolean": "true or false",
        "string": "text",
        "array": "lists with",
    }
    return " ".join([kind.get(node.get("type", ""), ""), " and ".join(words)]).strip()
