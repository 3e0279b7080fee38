"""Signed workspaces to tamper with, and the tools of an attacker, who has this project's own code."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fake_workspace import RUNTIME, bare_workspace

from configs.schema import Runtime
from data.ids import canonical_json
from data.provenance import make_statement, read_statement, signature_of, statement_path
from data.shards import ShardIndex, sha256_file
from data.signing import envelope_path, sign_statement
from flows.engine import run_stage
from flows.runners import serial
from flows.verify import verify
from flows.workspace import PROJECT

STAGES = ("assets", "prompts")
INPUTS = {"assets": (), "prompts": ("assets",)}


def signing(private: Path | None) -> Runtime:
    return RUNTIME.model_copy(update={"signing_key": None if private is None else str(private)})


def made(folder: Path, private: Path | None, *overrides: str) -> Path:
    """assets and prompts, run and signed."""
    (bare_workspace(folder, *overrides) / ".dvc").mkdir(exist_ok=True)
    for stage in STAGES:
        run_stage(stage, folder, signing(private), serial, package="fake_tasks")
    return folder


def trained(folder: Path, private: Path | None) -> Path:
    """shard and train, run and signed; their stanzas are those of the project, the dataset made from nothing."""
    (bare_workspace(folder) / ".dvc").mkdir()
    stanzas = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"]
    chosen = {name: stanzas[name] for name in ("shard", "train")}
    chosen["shard"]["deps"] = []
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": chosen}))
    for stage in chosen:
        run_stage(stage, folder, signing(private), serial, package="hostile.fake_training")
    return folder


def flip(path: Path, at: int, bit: int = 0) -> None:
    """One bit of one byte, in a file of its own: shards are hard links into the work folder."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    rewrite(path, bytes(data))


def rewrite(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)


def problems_of(workspace: Path, pinned: Mapping[str, Any] | None = None) -> list[str]:
    return verify(workspace, pinned)[0]


def forge(workspace: Path, private: Ed25519PrivateKey | None) -> None:
    """Change one byte of the assets and make everything else agree: index, signatures, statements, envelopes."""
    shutil.rmtree(workspace / "artifacts" / ".work")
    flip(workspace / "artifacts/assets/000001.tar", 700)
    for stage in STAGES:
        old = read_statement(statement_path(workspace, stage))
        params = old["predicate"]["buildDefinition"]["externalParameters"]["params"]
        index = forged_index(workspace, stage, params)
        rewrite(workspace / "artifacts" / stage / "index.json", index.model_dump_json(indent=1).encode())
        run = old["predicate"]["runDetails"]["metadata"]
        statement = make_statement(workspace, index, params, INPUTS[stage], [], run)
        rewrite(statement_path(workspace, stage), canonical_json(statement) + b"\n")
        if private is None:
            envelope_path(workspace, stage).unlink(missing_ok=True)
        else:
            sign_statement(workspace, stage, private)


def forged_index(workspace: Path, stage: str, params: Mapping[str, Any]) -> ShardIndex:
    folder = workspace / "artifacts" / stage
    index = ShardIndex.model_validate_json((folder / "index.json").read_bytes())
    inputs = {name: sha256_file(workspace / "artifacts" / name / "index.json") for name in INPUTS[stage]}
    shards = [entry.model_copy(update={"sha256": sha256_file(folder / entry.name)}) for entry in index.shards]
    return index.model_copy(update={"shards": shards, "signature": signature_of(stage, params, inputs)})


def restore(copy: Path, workspace: Path, stage: str) -> None:
    """Put the output, statement and envelope of a stage back as they are in an earlier copy of the workspace."""
    shutil.rmtree(workspace / "artifacts" / stage)
    shutil.copytree(copy / "artifacts" / stage, workspace / "artifacts" / stage)
    for path in (statement_path, envelope_path):
        shutil.copy(path(copy, stage), path(workspace, stage))


def positions(size: int, count: int) -> Iterator[int]:
    """Bytes spread over a file: the ends, and steps that share no factor with the width of a line or a record."""
    step = max(1, size // count) | 1
    yield from sorted({0, size - 1, *range(step // 2, size, step)})
