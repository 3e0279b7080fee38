"""Signatures of statements in a store or a DVC remote, which would otherwise keep what is signed without them.

    URL/signatures/<sha256 of the statement>.<sha256 of the file>.dsse.json    an envelope with one signature of one key

A name says what is in it, so nothing is ever written over and keys may sign at any time, in any order. Nothing vouches
for what is brought: `syncd verify --public-key` does.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from data.ids import canonical_json
from data.provenance import statement_path
from data.signing import Envelope, SigningError, add_signatures, body_of, parse_envelope, read_signatures
from data.store import Store

FOLDER = "signatures"
SUFFIX = ".dsse.json"


def send_signatures(workspace: Path, stages: Iterable[str], url: str) -> int:
    """Store the signatures of the statements as they are on disk; how many the store lacked. StoreError if it fails."""
    store, sent = Store(f"{url.rstrip('/')}/{FOLDER}"), 0
    for stage in stages:
        envelope = read_signatures(workspace, stage)
        if envelope is None:
            continue
        for signature in envelope.signatures:
            data = canonical_json(envelope.model_copy(update={"signatures": [signature]}).model_dump()) + b"\n"
            name = f"{_digest(body_of(envelope))}.{_digest(data)}{SUFFIX}"
            sent += store.create(name, data)
    return sent


def bring_signatures(workspace: Path, stages: Iterable[str], url: str) -> int:
    """Add the store's signatures of the statements that are on disk; how many were not here.

    SigningError for a file of the store that is no envelope of the statement it is named after.
    """
    store, brought = Store(f"{url.rstrip('/')}/{FOLDER}"), 0
    names = list(store.list())
    for stage in stages:
        path = statement_path(workspace, stage)
        if not names or not path.exists():
            continue
        body = path.read_bytes()
        found = [_read(store, name, body) for name in names if name.startswith(_digest(body))]
        brought += add_signatures(workspace, stage, [item for envelope in found for item in envelope.signatures])
    return brought


def _read(store: Store, name: str, body: bytes) -> Envelope:
    envelope = parse_envelope(store.read(name), store.url_of(name))
    if body_of(envelope) != body:
        raise SigningError(f"{store.url_of(name)}: not an envelope of the statement it is named after; delete it")
    return envelope


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
