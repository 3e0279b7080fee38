"""What the audit should say, from plain loops over the tars and the ledger of a workspace."""

import json
import tarfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def members(tar: Path) -> dict[str, bytes]:
    with tarfile.open(tar) as opened:
        return {member.name: opened.extractfile(member).read() for member in opened}


def records(workspace: Path, stage: str) -> dict[str, dict[str, Any]]:
    found = {}
    for tar in sorted((workspace / "artifacts" / stage).glob("*.tar")):
        for name, data in members(tar).items():
            if name.endswith(".json"):
                found[name.removesuffix(".json")] = json.loads(data)
    return found


def pictures(workspace: Path) -> dict[str, bytes]:
    """PNG of every published image by sample id."""
    found = {}
    for tar in sorted((workspace / "artifacts" / "shard").glob("*.tar")):
        held = members(tar)
        for name, data in held.items():
            if name.endswith(".json"):
                key = name.removesuffix(".json")
                for image in json.loads(data)["samples"]:
                    found[image["sample_id"]] = held[f"{key}.{image['index']}.png"]
    return found


@dataclass
class Uses:
    target: Counter
    reference: Counter
    steps: dict[str, list[int]]
    pairs: Counter


def uses(workspace: Path) -> Uses:
    """How often and at which steps every image was used."""
    found = Uses(Counter(), Counter(), {}, Counter())
    for line in (workspace / "artifacts" / "train" / "ledger.jsonl").read_text().splitlines():
        row = json.loads(line)
        for example in row["samples"]:
            if "pair" in example:
                found.pairs[example["pair"]] += 1
                continue
            found.target[example["target"]] += 1
            found.reference.update(example["references"])
            for name in (example["target"], *example["references"]):
                found.steps.setdefault(name, []).append(row["step"])
    return found
