"""Take-downs: objects and files that may be in no stage, with a tombstone for each; kept in configs/revoked.yaml.

A revoked key stays in the plan of its shard and is recorded there as failed for REVOKED, so that the membership of all
other shards, and with it their bytes, is what it was. A file that was taken down with its object is refused under any
other id, by its digest.
"""

from collections.abc import Iterable, Mapping
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
REVOKED_AGAIN = "revoked_file"
"""Reasons of a failed key: the object was taken down; its file was, under another id."""
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
    files: tuple[str, ...] = Field(default=(), description="sha256 that may not come back: of its file, of its GLB")


class Revocations(Record):
    """The lists repeat what the tombstones say, as dvc.yaml tracks it."""

    objects: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    tombstones: tuple[Tombstone, ...] = ()

    def adding(self, added: Iterable[Tombstone]) -> Self:
        """With more; the tombstone of an object that has one already is replaced."""
        known = {own.object_id: own for own in (*self.tombstones, *added)}
        stones = [known[name] for name in sorted(known)]
        return type(self)(
            objects=tuple(own.object_id for own in stones),
            held_out=tuple(own.object_id for own in stones if own.split == "eval"),
            sets=tuple(sorted(name for own in stones for name in own.sets)),
            files=tuple(sorted({name for own in stones for name in own.files})),
            tombstones=tuple(stones),
        )


def load_revocations(workspace: Path) -> Revocations:
    """ShardError if the file is missing or not what `syncd revoke` writes."""
    path = workspace / REVOKED_FILE
    try:
        return Revocations.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ShardError(f"{path}: cannot be read as a list of revoked objects: {error}") from error


def revocations_text(revocations: Revocations) -> str:
    """The whole of REVOKED_FILE."""
    return HEADER + yaml.safe_dump(revocations.model_dump(mode="json"), sort_keys=False, width=120)


def write_revocations(workspace: Path, revocations: Revocations) -> None:
    write_atomic(workspace / REVOKED_FILE, revocations_text(revocations).encode())


@dataclass(frozen=True)
class Revoked:
    """What a stage may not make."""

    objects: frozenset[str] = frozenset()
    held_out: frozenset[str] = frozenset()
    """Of these objects, those of the evaluation."""
    sets: frozenset[str] = frozenset()
    """Of these objects, those that had been published."""
    files: frozenset[str] = frozenset()
    """sha256 of files that were taken down under any id."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """From the keys of REVOKED_FILE that a stage tracks."""
        return cls(*(frozenset(values.get(name, ())) for name in ("objects", "held_out", "sets", "files")))

    def holds(self, stage: str, key: str) -> bool:
        """Whether a key of a stage is of a revoked object."""
        return subject_of(stage, key) in self.objects
