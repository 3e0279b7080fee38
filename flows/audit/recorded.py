"""Stages as they were run: the recipe, signature and inputs that their statements hold, not those that are active."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from configs.errors import ConfigError
from configs.load import CONFIGS, validated
from configs.schema import ModelRef, Recipe
from configs.section import Section
from data.provenance import input_indexes
from data.stage import StageContext
from flows.graph import RECIPE_FILE, VERSIONS_FILE, TrackedModels, TrackedRecipe
from tasks.auditing.chain import Link


def recorded_recipe(chain: Sequence[Link]) -> Recipe:
    """The part of a recipe that the statements of a chain name. ConfigError if this code reads recipes otherwise."""
    named: dict[str, Any] = {}
    for link in chain:
        named |= link.parameters[RECIPE_FILE]
    values: dict[str, Any] = {}
    roles: dict[str, ModelRef | None] = {}
    for key, value in named.items():
        section, _, role = key.partition(".")
        kind = Recipe.model_fields[section].annotation
        if section == "models":
            origin = f"statement: models.{role}"
            roles[role] = None if value is None else validated(ModelRef, value, origin)
        elif isinstance(kind, type) and issubclass(kind, Section):
            values[section] = validated(kind, value, f"statement: {section}")
        else:
            values[section] = value
    recipe = TrackedRecipe.model_construct(**values, models=TrackedModels.model_construct(**roles))
    for untracked in set(Recipe.model_fields) - set(values) - {"models"}:
        recipe.__dict__.pop(untracked, None)  # model_construct fills in defaults
    return recipe


def check_version(link: Link) -> None:
    """ConfigError if the code here is not of the version that made a stage: its bytes may differ on purpose."""
    made = link.parameters[VERSIONS_FILE][link.stage]
    here = yaml.safe_load((CONFIGS / "versions.yaml").read_text(encoding="utf-8"))[link.stage]
    if made != here:
        raise ConfigError(
            f"{link.stage} was made by version {made} of its code, here is version {here}; check out the commit that "
            "its statement names (syncd audit trace shows it)"
        )


@contextmanager
def recorded_contexts(
    workspace: Path, chain: Sequence[Link], device: str = "cpu", options: dict[str, Any] | None = None
) -> Iterator[dict[str, StageContext]]:
    """Every stage of a chain as it was run; it reads the workspace's artifacts and writes to a temporary folder."""
    recipe = recorded_recipe(chain)
    with tempfile.TemporaryDirectory(prefix="syncd-audit-") as scratch:
        artifacts = Path(scratch) / "artifacts"
        artifacts.mkdir()
        for link in chain:
            (artifacts / link.stage).symlink_to((workspace / "artifacts" / link.stage).resolve())
        yield {
            link.stage: StageContext(
                stage=link.stage,
                recipe=recipe,
                workspace=Path(scratch),
                signature=link.signature,
                inputs=tuple(input_indexes(dict(link.statement))),
                device=device,
                options=options or {},
            )
            for link in chain
        }
