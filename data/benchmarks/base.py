"""What every benchmark gives: objects with references and labelled prompts; and how their files are read."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from configs.errors import ConfigError
from configs.load import CONFIGS
from data.ids import check_object_id
from data.records import Prompt

IMAGES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class BenchmarkObject:
    object_id: str
    category: str
    phrase: str
    """What a detector finds it by."""
    references: tuple[Path, ...]
    """In the order of their names; at least one."""
    prompts: tuple[Prompt, ...]
    """Of kind background or property."""

    def __post_init__(self) -> None:
        check_object_id(self.object_id)


@cache
def labels(benchmark: str) -> dict[str, Any]:
    """configs/benchmarks/NAME.yaml."""
    return yaml.safe_load((CONFIGS / "benchmarks" / f"{benchmark}.yaml").read_text(encoding="utf-8"))


def images_in(folder: Path, fix: str) -> tuple[Path, ...]:
    """The pictures of a folder by name; ConfigError with `fix` if there are none."""
    found = sorted(path for path in folder.glob("*") if path.suffix.lower() in IMAGES) if folder.is_dir() else []
    if not found:
        raise ConfigError(f"{folder}: no pictures ({', '.join(IMAGES)}); {fix}")
    return tuple(found)


def text_of(path: Path, fix: str) -> str:
    """ConfigError with `fix` if the file is missing or no text."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: missing; {fix}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}; {fix}") from error


def inside(folder: Path, name: str, said_by: Path) -> Path:
    """The path of a file that a list names; ConfigError if it leads out of the folder."""
    path = folder / name
    if "\0" in name or not path.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"{said_by}: names {name!r}, which leads out of {folder}; give a path below it")
    return path


Reader = Callable[[Path], list[BenchmarkObject]]
