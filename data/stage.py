"""The contract between a stage and the engine that runs it.

A stage is a module in tasks/ with three plain functions:

    plan(ctx) -> list[ShardSpec]            deterministic from the inputs; cheap; reads indexes, not images
    run_shard(ctx, spec, out) -> None       makes one shard through `out` (add or fail every key of the spec)
    finalize(ctx, index, out_dir) -> dict   writes files beside the shards; returns numbers for the summary
    FILTERED_REASONS                        optional: reasons of `out.fail` that the failure budget does not count
    LOOKS_ACROSS_SHARDS                     optional: what is made of a key may depend on keys of other shards
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from configs.schema import Recipe
from data.lookup import KeyLookup
from data.revocation import REVOKED, Revoked
from data.shards import Sample, ShardError, ShardIndex, load_index, read_shard, verify_file
from data.store import stage_url


@dataclass(frozen=True)
class ShardSpec:
    """One unit of work: `keys` are what it must account for, in ascending order."""

    index: int
    keys: tuple[str, ...]


@dataclass(frozen=True)
class CheckpointFile:
    """Published weights of a customization model, by the digest that they had when the work was planned."""

    path: Path
    sha256: str


WORK = "work"
"""Folder of a stage in the store for what it resumes from."""


@dataclass(frozen=True)
class StageContext:
    """All that a stage may depend on. Picklable: it travels to worker processes."""

    stage: str
    recipe: Recipe
    workspace: Path
    signature: str
    inputs: tuple[str, ...] = ()
    device: str = "cpu"
    options: dict[str, Any] = field(default_factory=dict)
    """Runtime settings that cannot change bytes (cache folders, offline mode)."""
    revoked: Revoked = field(default_factory=Revoked)
    checkpoint: CheckpointFile | None = None
    """Evaluated in place of the train stage's output, where there is no pipeline around the stage."""

    @property
    def work_dir(self) -> Path:
        """Where shards and checkpoints of this signature are kept until the stage is finished."""
        return self.workspace / "artifacts" / ".work" / self.stage / self.signature[:16]

    @property
    def work_url(self) -> str | None:
        """Where what this stage resumes from is kept too, until it is published; None without a store."""
        url = self.options.get("store")
        return None if url is None else f"{stage_url(url, self.stage, self.signature)}/{WORK}"

    def output_dir(self, stage: str) -> Path:
        return self.workspace / "artifacts" / stage

    def index(self, stage: str) -> ShardIndex:
        """Index of an input stage; ValueError if the stage graph does not declare it as an input."""
        return self._indexed(stage)[0]

    def planned(self, stage: str) -> list[str]:
        """Keys of an input stage in ascending order, with those that it recorded as revoked.

        To be cut into shards: so taking down an object moves no other to another shard.
        """
        index = self.index(stage)
        return sorted([*index.keys, *(failure.key for failure in index.failed if failure.reason == REVOKED)])

    def read(self, stage: str, keys: Sequence[str]) -> Iterator[Sample]:
        """The samples with these keys, in ascending key order, each shard verified by digest and read once.

        Keys that the input stage failed are simply not there: it has recorded why.
        """
        wanted = set(keys)
        directory = self.output_dir(stage)
        found = []
        for entry in self._indexed(stage)[1].holding(wanted):
            found += [sample for sample in read_shard(directory, entry) if sample.key in wanted]
        yield from sorted(found, key=lambda sample: sample.key)

    def file(self, stage: str, name: str) -> Path:
        """A file beside the shards of an input stage; ShardError if it is not the bytes that the index vouches for."""
        path = self.output_dir(stage) / name
        entry = next((entry for entry in self.index(stage).files if entry.name == name), None)
        if entry is None:
            known = ", ".join(file.name for file in self.index(stage).files) or "none"
            raise ShardError(f"{path}: not a file of stage {stage}; it has: {known}")
        verify_file(path, entry.bytes, entry.sha256)
        return path

    def _indexed(self, stage: str) -> tuple[ShardIndex, KeyLookup]:
        if stage not in self.inputs:
            raise ValueError(f"stage {self.stage} reads {stage}, which dvc.yaml does not list among its inputs")
        path = self.output_dir(stage) / "index.json"
        return _cached_index(path.parent, path.stat().st_mtime_ns if path.exists() else 0)


@lru_cache(maxsize=32)
def _cached_index(directory: Path, _mtime_ns: int) -> tuple[ShardIndex, KeyLookup]:
    index = load_index(directory)
    return index, KeyLookup(index)


def chunk(keys: Sequence[str], size: int) -> list[ShardSpec]:
    """Sorted keys cut into shards of at most `size`."""
    ordered = sorted(keys)
    return [
        ShardSpec(number, tuple(ordered[start : start + size]))
        for number, start in enumerate(range(0, len(ordered), size))
    ]
