"""What every stage did: counts, failures by reason, time, and each object that failed with the reason."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.shards import ShardIndex
from data.stage import StageContext

MAX_FAILURES = 200
MAX_DETAIL = 300
DIGEST = re.compile(r"\b[0-9a-f]{40,64}\b")


@dataclass(frozen=True)
class StageRow:
    stage: str
    done: bool
    shards: int = 0
    keys: int = 0
    failed: int = 0
    reasons: str = ""
    megabytes: float = 0.0
    duration: str = ""
    summary: str = ""


@dataclass(frozen=True)
class FailureRow:
    stage: str
    key: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Failures:
    rows: list[FailureRow]
    total: int
    by_reason: list[tuple[str, str, int]]
    """Stage, reason and how many, the most frequent first."""


def stage_row(stage: str, index: ShardIndex | None, seconds: float | None) -> StageRow:
    """One line of the pipeline table; `index` is None for a stage that has not finished."""
    if index is None:
        return StageRow(stage, done=False)
    reasons = Counter(failure.reason for failure in index.failed)
    return StageRow(
        stage=stage,
        done=True,
        shards=len(index.shards),
        keys=len(index.keys),
        failed=len(index.failed),
        reasons=told(dict(sorted(reasons.items()))),
        megabytes=sum(entry.bytes for entry in [*index.shards, *index.files]) / 1e6,
        duration="" if seconds is None else duration_text(seconds),
        summary=told(index.summary),
    )


def duration_text(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 20 s`, `5 h 02 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def told(value: Any) -> str:
    """A summary value in one line: mappings as `name value`, long lists as their length, digests cut."""
    if isinstance(value, Mapping):
        return ", ".join(
            f"{str(name).replace('_', ' ')}: ({told(item)})"
            if isinstance(item, Mapping)
            else f"{str(name).replace('_', ' ')} {told(item)}"
            for name, item in value.items()
            if item not in ({}, [])
        )
    if isinstance(value, list | tuple):
        return f"({len(value)})" if len(value) > 4 else " ".join(told(item) for item in value)
    if isinstance(value, float):
        return f"{value:.4g}"
    return "none" if value is None else cut_digests(str(value))


def cut_digests(text: str) -> str:
    """`text` with every git or sha256 digest cut to 12 digits."""
    return DIGEST.sub(lambda found: found[0][:12], text)


def failures(indexes: Mapping[str, ShardIndex]) -> Failures:
    """Failed keys of all stages in stage order; the first MAX_FAILURES as rows, all of them counted."""
    listed = [(stage, failure) for stage, index in indexes.items() for failure in index.failed]
    counted = Counter((stage, failure.reason) for stage, failure in listed)
    return Failures(
        rows=[
            FailureRow(stage, failure.key, failure.reason, cut(failure.detail))
            for stage, failure in listed[:MAX_FAILURES]
        ],
        total=len(listed),
        by_reason=[(stage, reason, count) for (stage, reason), count in counted.most_common()],
    )


def ruled_out(ctx: StageContext) -> list[FailureRow]:
    """Assets that the source or the licence allow-list left out before the run, at most MAX_FAILURES."""
    # As bytes, since lines of text also end at characters that JSON leaves as they are.
    lines = read_file(ctx, "assets", "rejected.jsonl").splitlines()
    rejected = [json.loads(line) for line in lines[:MAX_FAILURES]]
    return [FailureRow("assets", item["id"], item["reason"], cut(item["detail"])) for item in rejected]


def cut(text: str) -> str:
    return text if len(text) <= MAX_DETAIL else text[:MAX_DETAIL] + " ..."


def read_file(ctx: StageContext, stage: str, name: str) -> bytes:
    return ctx.file(stage, name).read_bytes()


def finished(ctx: StageContext, stages: Sequence[str]) -> dict[str, ShardIndex]:
    """Indexes of the stages that have finished, in the order given."""
    return {stage: ctx.index(stage) for stage in stages if index_file(ctx, stage).exists()}


def index_file(ctx: StageContext, stage: str) -> Path:
    return ctx.output_dir(stage) / "index.json"
