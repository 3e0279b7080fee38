"""Signing the statements of a workspace: by the engine when a stage is published, or afterwards."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from configs.errors import ConfigError
from configs.schema import Runtime
from data.provenance import has_run, statement_path
from data.signing import (
    SignatureState,
    drop_signature_of_another,
    envelope_path,
    read_private_key,
    sign_statement,
    signature_state,
)
from flows.graph import load_graph
from flows.workspace import signing_key


def signer_of(runtime: Runtime) -> Ed25519PrivateKey | None:
    """The private key that the environment or the runtime names; SigningError if it cannot be used."""
    path, variable = signing_key(runtime), runtime.signing_passphrase_variable
    return None if path is None else read_private_key(path, os.environ.get(variable), variable)


def sign_published(workspace: Path, stage: str, signer: Ed25519PrivateKey | None) -> None:
    """Sign the statement of a stage that was just published; without a key no signature of another one stays."""
    if signer is not None:
        sign_statement(workspace, stage, signer)
    elif drop_signature_of_another(workspace, stage):
        print(
            f"WARNING: {stage}: its statement is new and this run has no signing key: the signature of the earlier one "
            "is deleted",
            file=sys.stderr,
            flush=True,
        )


def sign_workspace(workspace: Path, signer: Ed25519PrivateKey) -> tuple[list[str], list[str]]:
    """Sign the statements of all stages that have run; (stages signed, stages that this key had signed).

    ConfigError, and nothing is signed, if files and statements do not agree: a signature is a promise about them.
    """
    from flows.verify import digest_problems

    done = [stage for stage in load_graph(workspace).names if has_run(workspace, stage)]
    problems = digest_problems(workspace)
    if problems:
        raise ConfigError(
            f"{len(problems)} problems, so nothing was signed; first: {problems[0]}; all of them: syncd verify"
        )
    fresh = [stage for stage in done if sign_statement(workspace, stage, signer)]
    return fresh, [stage for stage in done if stage not in fresh]


def signature_states(workspace: Path, pinned: Mapping[str, Ed25519PublicKey]) -> list[SignatureState]:
    """Of every stage that has a statement or an envelope."""
    return [
        signature_state(workspace, stage, pinned)
        for stage in load_graph(workspace).names
        if statement_path(workspace, stage).exists() or envelope_path(workspace, stage).exists()
    ]


def signature_summary(states: Sequence[SignatureState]) -> str:
    """One line: `unsigned` if all are, or there is none; else each kind with its stages."""
    stages: dict[str, list[str]] = {}
    for state in states:
        stages.setdefault(state.text, []).append(state.stage)
    if len(stages) < 2:
        return next(iter(stages), "unsigned")
    return "; ".join(f"{text}: {', '.join(names)}" for text, names in stages.items())
