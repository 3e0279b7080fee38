"""The provenance chain as the page shows it, every link recomputed from the files."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from data.provenance import dependencies_of, read_statement, signature_in, statement_path
from data.shards import sha256_file
from data.signing import signature_state

MAX_SUBJECTS = 40


@dataclass(frozen=True)
class Link:
    """A statement or index of another stage that a statement names."""

    stage: str
    name: str
    sha256: str
    holds: bool
    """The file has this digest now."""


@dataclass(frozen=True)
class Model:
    role: str
    name: str
    source: str
    revision: str
    licence: str


@dataclass(frozen=True)
class StatementView:
    stage: str
    sha256: str
    signature: str
    subjects: list[tuple[str, str]]
    """Name and sha256 of the first MAX_SUBJECTS outputs."""
    total_subjects: int
    links: list[Link]
    models: list[Model]
    code: list[tuple[str, str]]
    """Sources, commit and what was not committed, each with its digest."""
    commit: str
    """For example `commit 1a2b3c4d5e6f with uncommitted changes`; empty outside a git checkout."""
    environment: str
    started: str
    finished: str
    seconds: float
    invocation: str
    hosts: list[str]
    signed: str
    """`unsigned`, or by which key it claims to be; a page cannot check a key."""

    @property
    def upstream(self) -> list[Link]:
        return [link for link in self.links if link.name.endswith(".intoto.json")]


def statement_view(workspace: Path, stage: str) -> StatementView:
    """The statement of a finished stage. ShardError if the file is not a statement."""
    path = statement_path(workspace, stage)
    statement = read_statement(path)
    predicate = statement["predicate"]
    metadata = predicate["runDetails"]["metadata"]
    dependencies = dependencies_of(statement)
    subjects = [(subject["name"], subject["digest"]["sha256"]) for subject in statement["subject"]]
    return StatementView(
        stage=stage,
        sha256=sha256_file(path),
        signature=signature_in(statement) or "",
        subjects=subjects[:MAX_SUBJECTS],
        total_subjects=len(subjects),
        links=[_link(workspace, item) for item in dependencies if item["name"].startswith("artifacts/")],
        models=[_model(item) for item in dependencies if item["name"].startswith("model:")],
        code=[_code(item) for item in dependencies if item["name"].startswith("code:")],
        commit=next((_commit(item) for item in dependencies if item["name"] == "code:git"), ""),
        environment=next((_environment(item) for item in dependencies if item["name"] == "environment"), ""),
        started=metadata["startedOn"],
        finished=metadata["finishedOn"],
        seconds=seconds_between(metadata["startedOn"], metadata["finishedOn"]),
        invocation=metadata["invocationId"],
        hosts=[host for item in predicate["runDetails"]["byproducts"] for host in item["annotations"]["hosts"]],
        signed=signature_state(workspace, stage, {}).text,
    )


def seconds_between(started: str, finished: str) -> float:
    """Seconds from one RFC 3339 time to another."""
    return (datetime.fromisoformat(finished) - datetime.fromisoformat(started)).total_seconds()


def _link(workspace: Path, item: dict[str, Any]) -> Link:
    name, sha256 = item["name"], item["digest"]["sha256"]
    parts = name.split("/")
    stage = parts[2].partition(".")[0] if parts[1] == "provenance" else parts[1]
    target = workspace / name
    return Link(stage, name, sha256, target.exists() and sha256_file(target) == sha256)


def _model(item: dict[str, Any]) -> Model:
    notes = item["annotations"]
    (revision,) = item["digest"].values() if "digest" in item else (f"{notes['revision']}, not verified",)
    return Model(item["name"].partition(":")[2], notes["name"], item["uri"], revision, notes["licence"])


def _code(item: dict[str, Any]) -> tuple[str, str]:
    (digest,) = item["digest"].values()
    notes = item.get("annotations", {})
    what = item["name"].partition(":")[2]
    said = ", ".join(f"{name} {str(value).lower()}" for name, value in sorted(notes.items()))
    return f"{what} ({said})" if said else what, digest


def _commit(item: dict[str, Any]) -> str:
    changed = " with uncommitted changes" if item["annotations"]["dirty"] else ""
    return f"commit {item['digest']['gitCommit'][:12]}{changed}"


def _environment(item: dict[str, Any]) -> str:
    notes = item["annotations"]
    packages = ", ".join(f"{name} {version}" for name, version in sorted(notes["packages"].items()))
    return f"Python {notes['python']}; {packages}"
