"""Signatures of statements: DSSE v1 envelopes (github.com/secure-systems-lab/dsse) with ed25519 keys.

An envelope lies in artifacts/signatures/<stage>.dsse.json, outside the outputs of the stages, and its payload is the
very bytes of artifacts/provenance/<stage>.intoto.json. The statement names every output by digest, so that whoever
signs it signs the dataset or the checkpoint as well.
"""

import base64
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from pydantic import BaseModel

from data.ids import canonical_json
from data.provenance import statement_path
from data.shards import write_atomic

PAYLOAD_TYPE = "application/vnd.in-toto+json"
PRIVATE_NAME, PUBLIC_NAME = "signing.key.pem", "signing.pub.pem"
SHOWN_DIGITS = 16
_HEX = re.compile("[0-9a-f]{16,128}")
_STANDARD = str.maketrans("-_", "+/")


class SigningError(Exception):
    """A key or an envelope that cannot be used; the message names the file and the fix."""


class Signature(BaseModel, frozen=True):
    """One signature of an envelope. `keyid` is a hint that nothing vouches for."""

    keyid: str = ""
    sig: str


class Envelope(BaseModel):
    """The JSON envelope of DSSE, its fields in Base64; fields that it does not name are ignored."""

    payload: str
    payloadType: str  # noqa: N815
    signatures: list[Signature]


@dataclass(frozen=True)
class SignatureState:
    """What the envelope of one statement is worth."""

    stage: str
    text: str
    """For example `unsigned`, or `signed, key not checked (keyid 1a2b...)`."""
    problem: str | None = None
    """What is wrong, naming the file; a missing envelope is wrong only where a key was pinned."""


def pae(payload_type: bytes, body: bytes) -> bytes:
    """Pre-authentication encoding, the bytes that DSSE signs (its protocol.md)."""
    return b"DSSEv1 %d %s %d %s" % (len(payload_type), payload_type, len(body), body)


def keyid_of(key: Ed25519PublicKey) -> str:
    """sha256 of the key's SubjectPublicKeyInfo in DER."""
    return sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def make_keys(folder: Path, passphrase: str | None) -> tuple[Path, Path]:
    """Write a new private key (PKCS8, mode 0600, encrypted if there is a passphrase) and its public key.

    SigningError if either file is there: a key that signed something must not be lost.
    """
    folder.mkdir(parents=True, exist_ok=True)
    private, public = folder / PRIVATE_NAME, folder / PUBLIC_NAME
    for path in (private, public):
        if path.exists():
            raise SigningError(f"{path}: is there already, and keys are never overwritten; take another --out")
    key = Ed25519PrivateKey.generate()
    encryption = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
    _write_new(private, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption), 0o600)
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    _write_new(public, pem, 0o644)
    return private, public


def _write_new(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(descriptor)


def read_private_key(path: Path, passphrase: str | None, variable: str) -> Ed25519PrivateKey:
    """The key in a PEM file. `variable` is the environment variable that `passphrase` came from, for the errors."""
    data = _key_file(path)
    try:
        key = load_pem_private_key(data, passphrase.encode() if passphrase else None)
    except TypeError as error:
        raise SigningError(_passphrase_advice(path, passphrase, variable)) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        wrong = f"; is the passphrase in {variable} the right one?" if b"ENCRYPTED" in data else ""
        raise SigningError(f"{path}: no private key that can be read ({error}){wrong}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SigningError(f"{path}: a key of another kind; ed25519 is needed: syncd keys new --out FOLDER")
    return key


def _passphrase_advice(path: Path, passphrase: str | None, variable: str) -> str:
    if passphrase:
        return f"{path}: the key is not encrypted, but {variable} holds a passphrase; unset it, or name the right key"
    return f"{path}: the key is encrypted; put its passphrase into the environment variable {variable}"


def read_public_key(path: Path) -> Ed25519PublicKey:
    """The key in a PEM file; SigningError for another kind, and for a private key given by mistake."""
    data = _key_file(path)
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        mistaken = "; this is a private key, name the public one" if b"PRIVATE" in data else ""
        raise SigningError(f"{path}: no public key that can be read{mistaken}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise SigningError(f"{path}: a key of another kind; ed25519 is needed: syncd keys new --out FOLDER")
    return key


def _key_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SigningError(f"{path}: {error.strerror}; make keys with: syncd keys new --out FOLDER") from error


def signed(body: bytes, key: Ed25519PrivateKey, others: Sequence[Signature] = ()) -> Envelope:
    """An envelope of `body`, signed by `key` beside the signatures that it has of `others`."""
    signature = base64.b64encode(key.sign(pae(PAYLOAD_TYPE.encode(), body))).decode()
    own = Signature(keyid=keyid_of(key.public_key()), sig=signature)
    return Envelope(payload=base64.b64encode(body).decode(), payloadType=PAYLOAD_TYPE, signatures=[*others, own])


def read_envelope(path: Path) -> Envelope:
    """SigningError if the file is no DSSE envelope of an in-toto statement."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SigningError(f"{path}: {error.strerror}; sign again with: syncd sign") from error
    return parse_envelope(data, str(path))


def parse_envelope(data: bytes, where: str) -> Envelope:
    """SigningError, naming `where` it is from, if `data` is no DSSE envelope of an in-toto statement."""
    try:
        envelope = Envelope.model_validate_json(data)
        body_of(envelope)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise SigningError(f"{where}: not a DSSE envelope ({reason[:200]}); sign again with: syncd sign") from error
    if envelope.payloadType != PAYLOAD_TYPE:
        raise SigningError(f"{where}: payloadType is {envelope.payloadType!r}; only {PAYLOAD_TYPE} is accepted")
    return envelope


def body_of(envelope: Envelope) -> bytes:
    return _decoded(envelope.payload)


def _decoded(text: str) -> bytes:
    """Base64 in the standard or the URL-safe alphabet, both of which DSSE allows; ValueError for anything else."""
    return base64.b64decode(text.translate(_STANDARD), validate=True)


def holders(envelope: Envelope, keys: Mapping[str, Ed25519PublicKey]) -> list[str]:
    """Ids of those `keys` that signed the envelope. Every key is tried: the ids in an envelope decide nothing."""
    message = pae(envelope.payloadType.encode(), body_of(envelope))
    return [keyid for keyid, key in keys.items() if any(_holds(key, item.sig, message) for item in envelope.signatures)]


def _holds(key: Ed25519PublicKey, signature: str, message: bytes) -> bool:
    try:
        key.verify(_decoded(signature), message)
    except (InvalidSignature, ValueError):
        return False
    return True


def envelope_path(workspace: Path, stage: str) -> Path:
    return workspace / "artifacts" / "signatures" / f"{stage}.dsse.json"


def sign_statement(workspace: Path, stage: str, key: Ed25519PrivateKey) -> bool:
    """Sign the statement of a stage as it is on disk; False if this key's signature of it was there already.

    Signatures of the same statement by other keys stay. An envelope of another statement is replaced.
    """
    envelope, public = read_signatures(workspace, stage), key.public_key()
    keyid = keyid_of(public)
    if envelope is not None and holders(envelope, {keyid: public}):
        return False
    others = [] if envelope is None else [item for item in envelope.signatures if item.keyid != keyid]
    _write_envelope(workspace, stage, signed(statement_path(workspace, stage).read_bytes(), key, others))
    return True


def read_signatures(workspace: Path, stage: str) -> Envelope | None:
    """The envelope of the statement as it is on disk; None if there is none, or one that signs something else."""
    path, statement = envelope_path(workspace, stage), statement_path(workspace, stage)
    try:
        envelope = read_envelope(path) if path.is_file() and statement.is_file() else None
    except SigningError:
        return None
    return envelope if envelope is not None and body_of(envelope) == statement.read_bytes() else None


def add_signatures(workspace: Path, stage: str, signatures: Sequence[Signature]) -> int:
    """Put signatures of the statement on disk beside those that it has; how many it had not.

    An envelope of another statement is replaced, but not by nothing.
    """
    envelope = read_signatures(workspace, stage)
    there = [] if envelope is None else envelope.signatures
    fresh = [item for item in dict.fromkeys(signatures) if item not in there]
    if fresh:
        payload = base64.b64encode(statement_path(workspace, stage).read_bytes()).decode()
        whole = Envelope(payload=payload, payloadType=PAYLOAD_TYPE, signatures=[*there, *fresh])
        _write_envelope(workspace, stage, whole)
    return len(fresh)


def _write_envelope(workspace: Path, stage: str, envelope: Envelope) -> None:
    path = envelope_path(workspace, stage)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, canonical_json(envelope.model_dump()) + b"\n")


def drop_signature_of_another(workspace: Path, stage: str) -> bool:
    """Delete an envelope that signs another statement than the stage has; whether there was one."""
    path = envelope_path(workspace, stage)
    if not path.exists() or read_signatures(workspace, stage) is not None:
        return False
    path.unlink()
    return True


def pinned_keys(files: Sequence[Path]) -> dict[str, Ed25519PublicKey]:
    """Public keys by id; SigningError names a file that holds none."""
    keys = [read_public_key(path) for path in files]
    return {keyid_of(key): key for key in keys}


def signature_state(workspace: Path, stage: str, pinned: Mapping[str, Ed25519PublicKey]) -> SignatureState:
    """What the signature of a stage's statement is worth, given the public keys that the reader trusts, by id."""
    path, statement = envelope_path(workspace, stage), statement_path(workspace, stage)
    if not path.exists():
        wanted = f"{path}: missing; {statement} is not signed by a pinned key: syncd sign" if pinned else None
        return SignatureState(stage, "unsigned", wanted)
    try:
        envelope = read_envelope(path)
    except SigningError as error:
        return SignatureState(stage, "signature cannot be read", str(error))
    if not statement.is_file() or body_of(envelope) != statement.read_bytes():
        return SignatureState(
            stage,
            "signature of another statement",
            f"{path}: signs another statement than {statement}; one of them was changed or put there",
        )
    claimed = ", ".join(f"keyid {shown(item.keyid)}" for item in envelope.signatures) or "by nobody"
    if not pinned:
        text = f"signed, key not checked ({claimed})" if envelope.signatures else "unsigned"
        return SignatureState(stage, text)
    holding = holders(envelope, pinned)
    if not holding:
        return SignatureState(
            stage,
            "not signed by a pinned key",
            f"{path}: no signature by a pinned key ({', '.join(map(shown, pinned))}) holds; it claims {claimed}",
        )
    return SignatureState(stage, f"signed by pinned key {', '.join(map(shown, holding))}")


def shown(keyid: str) -> str:
    """A key id as messages have it; an envelope may claim any text."""
    return keyid[:SHOWN_DIGITS] if _HEX.fullmatch(keyid) else "of another form"
