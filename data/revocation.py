"""Take-downs: objects that may be in no stage, with a tombstone for each; kept in configs/revoked.yaml.

A revoked key stays in the plan of its shard and is recorded there as failed for REVOKED, so that the membership of all
other shards, and with it their bytes, is what it was.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import Field

from data.ids import object_of
from data.records import Record, Split
from data.shards import ShardError, write_atomic

REVOKED_FILE = "configs/revoked.yaml"
REVOKED = "revoked"
OF_OBJECTS = frozenset({"assets", "prompts", "evaluate"})
"""Stages whose keys are objects; keys of the others are sets."""
HEADER = "# Objects taken down, with the reason; written by syncd revoke, tracked by dvc.yaml.\n"


def subject_of(stage: str, key: str) -> str:
    """The object that a key of a stage is of; empty for the one key of a training.

    By the stage, not by the key alone: an object may have the name that a set of another one has.
    """
    return key if stage in OF_OBJECTS else object_of(key)


class Tombstone(Record):
    """What is left of a revoked object."""

    object_id: str
    split: Split
    reason: str
    date: str = Field(description="RFC 3339, UTC")
    uri: str
    source_sha256: str
    licence: str
    sets: tuple[str, ...] = Field(description="its sets that had been published")
    checkpoints: tuple[str, ...] = Field(description="sha256 of the weights that had been trained on them")


class Revocations(Record):
    """The lists repeat what the tombstones say, as dvc.yaml tracks it."""

    objects: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()
    tombstones: tuple[Tombstone, ...] = ()

    def adding(self, stone: Tombstone) -> Self:
        """With one more; the tombstone of an object that has one already is replaced."""
        stones = [own for own in self.tombstones if own.object_id != stone.object_id] + [stone]
        stones.sort(key=lambda own: own.object_id)
        return type(self)(
            objects=tuple(own.object_id for own in stones),
            held_out=tuple(own.object_id for own in stones if own.split == "eval"),
            sets=tuple(sorted(name for own in stones for name in own.sets)),
            tombstones=tuple(stones),
        )


def load_revocations(workspace: Path) -> Revocations:
    """ShardError if the file is missing or not what `syncd revoke` writes."""
    path = workspace / REVOKED_FILE
    try:
        return Revocations.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ShardError(f"{path}: cannot be read as a list of revoked objects: {error}") from error


def write_revocations(workspace: Path, revocations: Revocations) -> None:
    text = HEADER + yaml.safe_dump(revocations.model_dump(mode="json"), sort_keys=False, width=120)
    write_atomic(workspace / REVOKED_FILE, text.encode())


@dataclass(frozen=True)
class Revoked:
    """What a stage may not make."""

    objects: frozenset[str] = frozenset()
    held_out: frozenset[str] = frozenset()
    """Of these objects, those of the evaluation."""
    sets: frozenset[str] = frozenset()
    """Of these objects, those that had been published."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """From the keys of REVOKED_FILE that a stage tracks."""
        return cls(*(frozenset(values.get(name, ())) for name in ("objects", "held_out", "sets")))

    def holds(self, stage: str, key: str) -> bool:
        """Whether a key of a stage is of a revoked object."""
        return subject_of(stage, key) in self.objects
