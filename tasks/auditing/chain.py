"""Chains of statements: collected from the files of a workspace, and checked from the copies in the audit store."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.outside_text import parse_json
from data.provenance import dependencies_of, input_indexes, read_statement, signature_of, statement_path
from data.shards import ShardError, ShardIndex, sha256_file
from models.header import FILE_NAME

SUFFIX = ".intoto.json"
DATASET_STAGE, CHECKPOINT_STAGE = "shard", "train"
"""Stages whose output is a part of the audit store."""


class ChainError(Exception):
    """Stages on disk that were not made from each other; the message names the file and the fix."""


def weights_sha256(index: ShardIndex) -> str:
    """Of the weights file of a finished train stage, as its index names it."""
    return next(entry.sha256 for entry in index.files if entry.name == FILE_NAME)


@dataclass(frozen=True)
class Link:
    """One statement of a chain."""

    stage: str
    sha256: str
    """Of the statement's file."""
    statement: Mapping[str, Any]
    body: bytes

    @property
    def parameters(self) -> dict[str, dict[str, Any]]:
        """Tracked values by file."""
        return self.statement["predicate"]["buildDefinition"]["externalParameters"]["params"]

    @property
    def signature(self) -> str:
        return self.statement["predicate"]["buildDefinition"]["externalParameters"]["signature"]

    @property
    def subjects(self) -> dict[str, str]:
        """sha256 of every output, by its path in the workspace."""
        return {subject["name"]: subject["digest"]["sha256"] for subject in self.statement["subject"]}

    @property
    def index_sha256(self) -> str | None:
        return self.subjects.get(f"artifacts/{self.stage}/index.json")


def link_of(stage: str, body: bytes) -> Link:
    """A statement from its bytes; ChainError if they are none: all that is read of one must be in it."""
    try:
        link = Link(stage, hashlib.sha256(body).hexdigest(), parse_json(body), body)
        _read_through(link)
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ChainError(f"the statement of {stage} is none ({reason[:300]})") from error
    return link


def _read_through(link: Link) -> None:
    """Everything that is read of a statement, once; any error if something is not there or of another type."""
    check_chain([link], "")
    statement_row(link)
    model_rows([link])
    environment_of(link)
    for values in link.parameters.values():
        values.items()


def chain_of(workspace: Path, stage: str) -> list[Link]:
    """The statements that `stage` comes from, each after its inputs, `stage` last.

    ChainError if a statement or an index on disk is not the one that a later statement names.
    """
    found: dict[str, Link] = {}
    _follow(workspace, stage, None, found)
    return list(found.values())


def _follow(workspace: Path, stage: str, expected: str | None, found: dict[str, Link]) -> None:
    path = statement_path(workspace, stage)
    try:
        statement = read_statement(path)
    except (OSError, ShardError) as error:
        raise ChainError(f"{path}: {error}") from error
    link = Link(stage, sha256_file(path), statement, path.read_bytes())
    if expected not in (None, link.sha256):
        raise ChainError(
            f"{path}: {link.sha256}, a later stage was made from {expected}; bring it up to date: syncd run"
        )
    index = workspace / "artifacts" / stage / "index.json"
    if not index.exists() or sha256_file(index) != link.index_sha256:
        raise ChainError(f"{index}: not the index that {path} names; bring it up to date: syncd run")
    if stage in found:
        return
    for item in dependencies_of(statement):
        if item["name"].endswith(SUFFIX):
            _follow(workspace, stage_of(item["name"]), item["digest"]["sha256"], found)
    found[stage] = link


def stage_of(name: str) -> str:
    """`artifacts/provenance/render.intoto.json` -> render."""
    return name.rpartition("/")[2].removesuffix(SUFFIX)


def sources_of(chain: Sequence[Link]) -> dict[str, str]:
    """The statement and the index of every stage of a chain by path, as the manifest of a part names them."""
    statements = {f"artifacts/provenance/{link.stage}{SUFFIX}": link.sha256 for link in chain}
    indexes = {f"artifacts/{link.stage}/index.json": str(link.index_sha256) for link in chain}
    return dict(sorted((statements | indexes).items()))


def check_chain(links: Sequence[Link], where: str) -> list[str]:
    """Whether statements hold together by themselves: every link names the statement and the index before it, and
    every signature follows from the parameters and inputs that its statement names."""
    by_stage = {link.stage: link for link in links}
    problems = []
    for link in links:
        name = f"{where}: statement of {link.stage}"
        if link.signature != signature_of(link.stage, link.parameters, input_indexes(dict(link.statement))):
            problems.append(f"{name}: its parameters and inputs do not give its signature {link.signature}")
        for item in dependencies_of(dict(link.statement)):
            if not item["name"].startswith("artifacts/"):
                continue
            of_statement = item["name"].endswith(SUFFIX)
            stage = stage_of(item["name"]) if of_statement else item["name"].split("/")[1]
            before = by_stage.get(stage)
            held = None if before is None else before.sha256 if of_statement else before.index_sha256
            if held != item["digest"]["sha256"]:
                problems.append(f"{name}: made from {item['name']} {item['digest']['sha256']}, the chain holds {held}")
    return problems


def statement_row(link: Link) -> dict[str, Any]:
    """Of the tables `statements` and `training_statements`."""
    metadata = link.statement["predicate"]["runDetails"]["metadata"]
    by_name = {item["name"]: item for item in dependencies_of(dict(link.statement))}
    git = by_name.get("code:git")
    return {
        "stage": link.stage,
        "statement": link.sha256,
        "signature": link.signature,
        "started": metadata["startedOn"],
        "finished": metadata["finishedOn"],
        "commit": git and git["digest"]["gitCommit"],
        "dirty": git and git["annotations"]["dirty"],
        "sources": by_name["code:sources"]["digest"]["sha256"],
        "environment": by_name["environment"]["digest"]["sha256"],
        "body": link.body.decode(),
    }


def environment_of(link: Link) -> dict[str, Any]:
    """Digest, Python and packages by name."""
    item = {item["name"]: item for item in dependencies_of(dict(link.statement))}["environment"]
    notes = item["annotations"]
    return {"sha256": item["digest"]["sha256"], "python": notes["python"], "packages": dict(notes["packages"])}


def model_rows(chain: Sequence[Link]) -> list[dict[str, Any]]:
    """Of the table `models`."""
    rows = []
    for link in chain:
        for item in dependencies_of(dict(link.statement)):
            if not item["name"].startswith("model:"):
                continue
            notes = item["annotations"]
            rows.append(
                {
                    "stage": link.stage,
                    "role": item["name"].partition(":")[2],
                    "name": notes["name"],
                    "source": item["uri"],
                    "revision": notes["revision"] if "digest" not in item else next(iter(item["digest"].values())),
                    "licence": notes["licence"],
                    "verified": notes.get("verified", True),
                }
            )
    return rows
