"""Provenance: one in-toto Statement v1 with a SLSA Provenance v1 predicate per stage, chained by digest.

Subjects are the files of the stage. Dependencies are the statement and the index of every input, the models, the code
and the environment. Times and hosts are in runDetails only.
"""

import importlib.metadata
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel

from data.ids import canonical_json, digest_of
from data.outside_text import parse_json
from data.shards import Receipt, ShardError, ShardIndex, sha256_file, write_atomic

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "https://syncd.dev/stage/{stage}/v1"
BUILDER = "https://syncd.dev/engine/v1"
CODE = Path(__file__).resolve().parents[1]
CODE_FOLDERS = ("configs", "data", "flows", "models", "tasks")
NOT_CODE = ("configs/recipe.yaml", "configs/inputs.yaml", "configs/revoked.yaml", "dvc.lock")
"""Files of the checkout that a run writes: they say nothing about the code."""
NOT_BYTES = ("max_failed_fraction",)
"""Tracked keys that decide whether a stage is accepted, and no byte of it: not part of a signature."""
KEY_PACKAGES = (
    "accelerate", "diffusers", "numpy", "peft", "pillow", "prodigyopt", "pyrender", "safetensors", "scipy", "torch",
    "transformers", "trimesh", "webdataset",
)  # fmt: skip
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


def signature_of(stage: str, params: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Digest of everything that determines the bytes of a stage.

    `params` are the tracked values by file (recipe, models, versions), `inputs` the sha256 of each input's index.
    """
    return digest_of({"stage": stage, "params": _bytes_only(dict(params)), "inputs": dict(inputs)})


def _bytes_only(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _bytes_only(item) for key, item in value.items() if key not in NOT_BYTES}
    return value


def statement_path(workspace: Path, stage: str) -> Path:
    return workspace / "artifacts" / "provenance" / f"{stage}.intoto.json"


def make_statement(
    workspace: Path,
    index: ShardIndex,
    parameters: Mapping[str, Any],
    inputs: Sequence[str],
    receipts: Sequence[Receipt],
    run: Mapping[str, str],
) -> dict[str, Any]:
    """The statement of a finished stage, its folder in place.

    `parameters` are the tracked values by file, as the signature covers them; `run` holds startedOn, finishedOn,
    invocationId and host.
    """
    stage = index.stage
    subjects = [
        _descriptor(f"artifacts/{stage}/index.json", sha256_file(workspace / "artifacts" / stage / "index.json"))
    ]
    subjects += [
        _descriptor(f"artifacts/{stage}/{entry.name}", entry.sha256) for entry in [*index.shards, *index.files]
    ]
    return {
        "_type": STATEMENT_TYPE,
        "subject": subjects,
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE.format(stage=stage),
                "externalParameters": {"stage": stage, "signature": index.signature, "params": dict(parameters)},
                "resolvedDependencies": [
                    *_input_dependencies(workspace, inputs),
                    *_model_dependencies(parameters),
                    *_code_dependencies(),
                    _environment(),
                ],
            },
            "runDetails": {
                "builder": {"id": BUILDER},
                "metadata": {key: run[key] for key in ("invocationId", "startedOn", "finishedOn")},
                "byproducts": [
                    {
                        "name": "shard runs",
                        "annotations": {
                            "hosts": sorted({str(receipt.run.get("host", "unknown")) for receipt in receipts}),
                            "seconds": round(sum(float(receipt.run.get("seconds", 0)) for receipt in receipts), 3),
                        },
                    }
                ],
            },
        },
    }


def write_statement(path: Path, statement: dict[str, Any], kept: Path) -> dict[str, Any]:
    """Write the statement, or the one at `kept` if it says the same of the same bytes.

    A stage that is published again from the same receipts keeps its statement: the bytes were made then, and the
    statements of later stages quote its digest.
    """
    earlier = read_statement(kept) if kept.exists() else None
    if earlier is not None and claims_of(earlier) == claims_of(statement):
        statement = earlier
    path.parent.mkdir(parents=True, exist_ok=True)
    data = canonical_json(statement) + b"\n"
    write_atomic(kept, data)
    write_atomic(path, data)
    return statement


class _Descriptor(BaseModel):
    name: str
    digest: dict[str, str] = {}
    annotations: dict[str, Any] = {}


class _ExternalParameters(BaseModel):
    stage: str
    signature: str
    params: dict[str, dict[str, Any]]


class _BuildDefinition(BaseModel):
    buildType: str  # noqa: N815
    externalParameters: _ExternalParameters  # noqa: N815
    resolvedDependencies: list[_Descriptor]  # noqa: N815


def _moment(text: str) -> str:
    if not _RFC_3339.fullmatch(text):
        raise ValueError(f"{text!r} is no time as RFC 3339 writes it")
    datetime.fromisoformat(text)
    return text


Moment = Annotated[str, AfterValidator(_moment)]


class _Metadata(BaseModel):
    invocationId: str  # noqa: N815
    startedOn: Moment  # noqa: N815
    finishedOn: Moment  # noqa: N815


class _RunDetails(BaseModel):
    metadata: _Metadata


class _Predicate(BaseModel):
    buildDefinition: _BuildDefinition  # noqa: N815
    runDetails: _RunDetails  # noqa: N815


class _Statement(BaseModel):
    """What readers of a statement rely on; a statement may say more."""

    subject: list[_Descriptor]
    predicate: _Predicate


def read_statement(path: Path) -> dict[str, Any]:
    """The statement in a file; ShardError if it is not one."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _no_statement(str(path), error) from error
    return parse_statement(data, str(path))


def parse_statement(data: bytes, where: str) -> dict[str, Any]:
    """ShardError, naming `where` it is from, if `data` is no statement."""
    try:
        statement = parse_json(data)
        _Statement.model_validate(statement)
        canonical_json(statement)
    except (ValueError, RecursionError) as error:
        raise _no_statement(where, error) from error
    return statement


def _no_statement(where: str, error: Exception) -> ShardError:
    reason = " ".join(str(error).split())
    return ShardError(f"{where}: not a provenance statement ({reason[:300]}); delete it and run the stage again")


def dependencies_of(statement: dict[str, Any]) -> list[dict[str, Any]]:
    return statement["predicate"]["buildDefinition"]["resolvedDependencies"]


def parameters_of(statement: dict[str, Any]) -> dict[str, Any]:
    """The tracked values by file."""
    return statement["predicate"]["buildDefinition"]["externalParameters"].get("params", {})


def signature_in(statement: dict[str, Any]) -> str | None:
    return statement["predicate"]["buildDefinition"]["externalParameters"].get("signature")


def claims_of(statement: dict[str, Any]) -> Any:
    """Subjects, parameters and inputs: all but the code, the environment and the run that made the bytes."""
    named = [item for item in dependencies_of(statement) if not item["name"].startswith(("code", "environment"))]
    return statement["subject"], statement["predicate"]["buildDefinition"]["externalParameters"], named


def _descriptor(name: str, sha256: str, **annotations: Any) -> dict[str, Any]:
    descriptor: dict[str, Any] = {"name": name, "digest": {"sha256": sha256}}
    return {**descriptor, "annotations": annotations} if annotations else descriptor


def _input_dependencies(workspace: Path, inputs: Sequence[str]) -> list[dict[str, Any]]:
    found = []
    for name in inputs:
        for path in (statement_path(workspace, name), workspace / "artifacts" / name / "index.json"):
            if not path.exists():
                raise ShardError(f"{path}: missing; run the stage first: syncd run --until {name}")
            found.append(_descriptor(path.relative_to(workspace).as_posix(), sha256_file(path)))
    return found


def _model_dependencies(parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One descriptor per model role that the parameters name; a model behind a server has no digest of its own."""
    found = []
    for values in parameters.values():
        for key, entry in sorted(values.items()):
            roles = {key.partition(".")[2]: entry} if key.startswith("models.") else entry if key == "models" else {}
            found += [_model_descriptor(role, model) for role, model in sorted(roles.items()) if model is not None]
    return found


def _model_descriptor(role: str, model: Mapping[str, Any]) -> dict[str, Any]:
    descriptor = {"name": f"model:{role}", "uri": model["source"]}
    annotations = {"name": model["name"], "licence": model["licence"]}
    if model["source"].startswith("server:"):
        return descriptor | {"annotations": annotations | {"revision": model["revision"], "verified": False}}
    kind = "sha256" if len(model["revision"]) == 64 else "gitCommit"
    return descriptor | {"digest": {kind: model["revision"]}, "annotations": annotations}


@lru_cache(maxsize=1)
def _code_dependencies() -> tuple[dict[str, Any], ...]:
    """The source files, and the git commit with the digest of what is not committed."""
    sources = {
        path.relative_to(CODE).as_posix(): sha256_file(path)
        for folder in CODE_FOLDERS
        for path in sorted((CODE / folder).rglob("*.py"))
    }
    found = [_descriptor("code:sources", digest_of(sources), files=len(sources))]
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return tuple(found)
    excluded = [f":(exclude){name}" for name in NOT_CODE]
    changes = _git("diff", "HEAD", "--binary", "--", ".", *excluded) or b""
    untracked = _git("ls-files", "--others", "--exclude-standard", "--", *CODE_FOLDERS) or b""
    dirty = bool(changes.strip() or untracked.strip())
    found.append(
        {"name": "code:git", "digest": {"gitCommit": commit.decode().strip()}, "annotations": {"dirty": dirty}}
    )
    if dirty:
        found.append(_descriptor("code:uncommitted", digest_of([changes.hex(), untracked.hex()])))
    return tuple(found)


def _git(*arguments: str) -> bytes | None:
    """Output of git in the code folder, None if that is no checkout of its own."""
    if shutil.which("git") is None or not (CODE / ".git").exists():
        return None
    done = subprocess.run(["git", "-C", str(CODE), *arguments], capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else None


@lru_cache(maxsize=1)
def _environment() -> dict[str, Any]:
    """The installed packages: digest of all name==version pairs, the ones that make bytes by name."""
    versions = {item.metadata["Name"].lower(): item.version for item in importlib.metadata.distributions()}
    named = {name: versions[name] for name in KEY_PACKAGES if name in versions}
    return _descriptor("environment", digest_of(versions), python=platform.python_version(), packages=named)


def input_indexes(statement: dict[str, Any]) -> dict[str, str]:
    """sha256 of the index of each input stage, as the statement has it."""
    indexes = [item for item in dependencies_of(statement) if item["name"].endswith("/index.json")]
    return {item["name"].split("/")[1]: item.get("digest", {}).get("sha256", "none") for item in indexes}


def has_run(workspace: Path, stage: str) -> bool:
    return statement_path(workspace, stage).exists() or (workspace / "artifacts" / stage).exists()
