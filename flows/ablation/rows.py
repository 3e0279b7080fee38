"""The rows of an ablation by name, from configs/ablations.yaml."""

from collections.abc import Sequence
from typing import Any

import yaml

from configs.errors import ConfigError
from configs.load import CONFIGS

Rows = dict[str, dict[str, Any]]


def groups_of(branch: str) -> dict[str, Rows]:
    """Group -> row -> what the file says of it."""
    return yaml.safe_load((CONFIGS / "ablations.yaml").read_text(encoding="utf-8"))[branch]


def chosen_rows(groups: dict[str, Rows], wanted: Sequence[str]) -> Rows:
    """The rows that `wanted` names, by group, by name, or `all`. ConfigError for a name that is neither."""
    every = {name: own for rows in groups.values() for name, own in rows.items()}
    chosen: Rows = {}
    for name in wanted:
        if name == "all":
            chosen |= every
        elif name in groups:
            chosen |= groups[name]
        elif name in every:
            chosen[name] = every[name]
        else:
            raise ConfigError(
                f"ablation row {name!r} is not known; groups: all, {', '.join(groups)}; rows: {', '.join(every)}"
            )
    return chosen


def as_overrides(changes: dict[str, Any]) -> list[str]:
    """Recipe changes as `--set` has them."""
    return [f"{key}={yaml.safe_dump(value, default_flow_style=True).splitlines()[0]}" for key, value in changes.items()]
