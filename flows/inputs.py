"""Digests of the files that a recipe names (meshes, captions, lists, text-image pairs), kept in configs/inputs.yaml."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from configs.errors import ConfigError
from configs.schema import Recipe
from data.assets.files import files_below
from data.digests import DigestCache
from data.ids import digest_of
from data.shards import write_atomic
from data.store import Store, StoreError, is_url, local_path
from flows.graph import INPUTS_FILE, RECIPE_FILE, Graph

PATH_FIELDS = {
    "assets": ("folder", "captions", "uids", "digests"),
    "train": ("pairs",),
    "evaluate": ("benchmark_folder", "reference_masks", "questions"),
}
URL_FIELDS = ("assets.folder",)
"""Fields that may be the s3:// URL of a folder."""
EXTERNAL = "external"
"""Field of the evaluate section that holds paths by row."""
HEADER = "# Digests of the files that the recipe names; written by syncd run, tracked by dvc.yaml.\n"


def is_path(key: str) -> bool:
    """Whether `section.field` (or `evaluate.external.ROW`) holds a path."""
    section, _, field = key.partition(".")
    return field in PATH_FIELDS.get(section, ()) or (section == "evaluate" and field.startswith(f"{EXTERNAL}."))


def resolve_paths(recipe: Recipe, base: Path, workspace: Path) -> Recipe:
    """The recipe's paths, given relative to `base`, as absolute ones; inside the workspace relative to it.

    A file:// URL is the path that it names; ConfigError for an s3:// one where none can be.
    """

    def resolved(section: str, field: str, path: str) -> str:
        if is_url(path) and not path.startswith("file://"):
            if f"{section}.{field}" not in URL_FIELDS:
                raise ConfigError(f"{section}.{field} is {path}; only {', '.join(URL_FIELDS)} may be a URL: get a copy")
            return path
        return _from_workspace((base / local_path(path)).resolve(), workspace)

    sections: dict[str, Any] = {}
    for section, fields in PATH_FIELDS.items():
        own = getattr(recipe, section)
        sections[section] = own.model_copy(
            update={field: resolved(section, field, getattr(own, field)) for field in fields if getattr(own, field)}
        )
    external = {row: resolved("evaluate", f"{EXTERNAL}.{row}", path) for row, path in recipe.evaluate.external.items()}
    sections["evaluate"] = sections["evaluate"].model_copy(update={EXTERNAL: external})
    return recipe.model_copy(update=sections)


def _from_workspace(path: Path, workspace: Path) -> str:
    return path.relative_to(workspace).as_posix() if path.is_relative_to(workspace) else path.as_posix()


def _named(recipe: Recipe, section: str) -> dict[str, str]:
    own = getattr(recipe, section)
    named = {field: getattr(own, field) for field in PATH_FIELDS[section] if getattr(own, field)}
    if section == "evaluate":
        named |= {f"{EXTERNAL}.{row}": path for row, path in recipe.evaluate.external.items()}
    return named


def input_values(recipe: Recipe, workspace: Path, sections: Collection[str] = tuple(PATH_FIELDS)) -> dict[str, Any]:
    """What configs/inputs.yaml should say of these sections: the digest of each file or folder that they name."""
    cache = DigestCache.of_workspace(workspace)
    found: dict[str, dict[str, str]] = {section: {} for section in sections}
    for section in sections:
        for field, name in _named(recipe, section).items():
            if is_url(name):
                found[section][field] = _stored_digest(section, field, name)
                continue
            path = workspace / name
            if not path.exists():
                raise ConfigError(
                    f"{section}.{field} is {path}: no such file or folder; set it with --set {section}.{field}=PATH"
                )
            if workspace.is_relative_to(path):
                raise ConfigError(
                    f"{section}.{field} is {path}, and the workspace {workspace} lies in it; take a --workspace outside"
                )
            found[section][field] = cache.digest(path) if path.is_file() else _folder_digest(path, cache)
    cache.save()
    return found


def _folder_digest(folder: Path, cache: DigestCache) -> str:
    """Of all files but hidden ones, which no source reads."""
    return digest_of({name: cache.digest(folder / name) for name in files_below(folder)})


def _stored_digest(section: str, field: str, url: str) -> str:
    """Of sizes and ETags: a store need not be read whole to see that it has changed."""
    try:
        listed = Store(url).list()
    except StoreError as error:
        raise ConfigError(f"{section}.{field}: {error}") from error
    if not listed:
        raise ConfigError(f"{section}.{field} is {url}: no file below it; set it with --set {section}.{field}=URL")
    return digest_of({name: [stored.bytes, stored.version] for name, stored in listed.items()})


def write_inputs(recipe: Recipe, workspace: Path) -> None:
    text = HEADER + yaml.safe_dump(input_values(recipe, workspace))
    path = workspace / INPUTS_FILE
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_atomic(path, text.encode())


def check_inputs(graph: Graph, stage: str, recipe: Recipe, workspace: Path) -> None:
    """Raise ConfigError if files that the stage reads have changed since configs/inputs.yaml was written."""
    sections = graph.node(stage).keys_of(INPUTS_FILE)
    if not sections:
        return
    recorded = yaml.safe_load((workspace / INPUTS_FILE).read_text(encoding="utf-8"))
    found = input_values(recipe, workspace, sections)
    for section in sections:
        if recorded.get(section) != found[section]:
            raise ConfigError(
                f"{workspace / INPUTS_FILE} says {recorded.get(section)}, the files that {RECIPE_FILE} names are now "
                f"{found[section]}; start with syncd run, which records them"
            )
