"""A published dataset of random sets: shards, and the card that the train stage reads its licence from."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import stage_runs

from configs.schema import Recipe, Release
from data.release.licensing import asset_inputs, conclude, maker

LICENCES = {"CC0-1.0": 1, "CC-BY-4.0": 1}


def write_dataset(
    workspace: Path, sets: list[Any], recipe: Recipe, licences: dict[str, int] | None = None, **changes: Any
) -> Path:
    """artifacts/shard of `workspace`; `changes` go into card.json."""
    stage_runs.write_input(workspace, "shard", sets, recipe)
    folder, generator = workspace / "artifacts" / "shard", recipe.models.generator
    inputs = [*asset_inputs(licences or LICENCES), maker("generator", generator.name, generator.licence)]
    facts = {
        "title": "Tiny",
        "recipe": recipe.name,
        "sets": len(sets),
        "images": sum(len(record.samples) for _, record, _ in sets),
        "licences": licences or LICENCES,
        "licence": asdict(conclude(inputs)),
        "miniature": True,
        "release": Release().model_dump(mode="json"),
        **changes,
    }
    data = json.dumps(facts).encode()
    (folder / "card.json").write_bytes(data)
    path = folder / "index.json"
    entry = {"name": "card.json", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    path.write_text(json.dumps({**json.loads(path.read_text()), "files": [entry]}))
    return folder
