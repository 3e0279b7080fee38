"""The benchmarks by the name that a recipe calls them."""

from pathlib import Path

from configs.errors import ConfigError
from data.benchmarks import customconcept, dreambench_plus, dreambooth
from data.benchmarks.base import BenchmarkObject, Reader

READERS: dict[str, Reader] = {
    dreambooth.NAME: dreambooth.read,
    customconcept.NAME: customconcept.read,
    dreambench_plus.NAME: dreambench_plus.read,
}


def read_benchmark(name: str, folder: Path) -> list[BenchmarkObject]:
    """Objects by ascending id. ConfigError for files that are not as published, and for ids that occur twice."""
    found = READERS[name](folder)
    ids = [item.object_id for item in found]
    twice = sorted({item for item in ids if ids.count(item) > 1})
    if twice:
        raise ConfigError(f"{folder}: {len(twice)} objects are listed twice, for example {twice[0]}; list each once")
    return sorted(found, key=lambda item: item.object_id)
