"""DSSE envelopes against values that other programs computed, and everything that a signature must not let pass."""

import base64
import json
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from data.provenance import statement_path
from data.signing import (
    PRIVATE_NAME,
    PUBLIC_NAME,
    Envelope,
    Signature,
    SigningError,
    body_of,
    drop_signature_of_another,
    envelope_path,
    holders,
    keyid_of,
    make_keys,
    pae,
    read_envelope,
    read_private_key,
    read_public_key,
    sign_statement,
    signature_state,
    signed,
)

# RFC 8032, section 7.1, TEST 1. The rest was computed with openssl 3: pkey -pubout | sha256sum, pkeyutl -sign -rawin.
SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
PUBLIC = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
KEYID = "06e3fd8fda29bb60ab59557de61edb0aecdb231134be30e75b455f8e1b792fa9"
BODY = '{"a":"é"}\n'.encode()
BODY_PAE = b'DSSEv1 28 application/vnd.in-toto+json 11 {"a":"\xc3\xa9"}\n'
BODY_SIGNATURE = bytes.fromhex(
    "6d39603f759136953b5970b2cdd0a206decfa979b9fec588c79be730bfc0809c"
    "60360daf111c3e355d3b8e6a57d2c980c7821c4f535bc9314c2f1974bbe2d906"
)


@pytest.fixture
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(SEED)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    for stage in ("assets", "train"):
        path = statement_path(tmp_path, stage)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b'{"stage":"%s"}\n' % stage.encode())
    return tmp_path


def by_id(*keys: Ed25519PrivateKey) -> dict[str, Ed25519PublicKey]:
    return {keyid_of(key.public_key()): key.public_key() for key in keys}


def test_pae_is_the_one_of_the_specification() -> None:
    expected = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert pae(b"http://example.com/HelloWorld", b"hello world") == expected


def test_pae_counts_bytes_and_keeps_an_empty_body() -> None:
    assert pae(b"application/vnd.in-toto+json", BODY) == BODY_PAE
    assert pae(b"", b"") == b"DSSEv1 0  0 "


def test_an_envelope_is_the_one_that_openssl_signs(key: Ed25519PrivateKey) -> None:
    envelope = signed(BODY, key)
    assert envelope.model_dump() == {
        "payload": base64.b64encode(BODY).decode(),
        "payloadType": "application/vnd.in-toto+json",
        "signatures": [{"keyid": KEYID, "sig": base64.b64encode(BODY_SIGNATURE).decode()}],
    }
    Ed25519PublicKey.from_public_bytes(PUBLIC).verify(BODY_SIGNATURE, BODY_PAE)
    assert holders(envelope, by_id(key)) == [KEYID]


def test_either_alphabet_of_base64_is_read_and_nothing_else(key: Ed25519PrivateKey) -> None:
    body = b"\xfb\xff\xbf>?"
    envelope = signed(body, key)
    urlsafe = str.maketrans("+/", "-_")
    other = Envelope(
        payload=envelope.payload.translate(urlsafe),
        payloadType=envelope.payloadType,
        signatures=[Signature(sig=envelope.signatures[0].sig.translate(urlsafe))],
    )
    assert other.payload != envelope.payload
    assert body_of(other) == body and holders(other, by_id(key)) == [KEYID]
    for text in ("!", "aGk", "aGk=\n", "é"):
        with pytest.raises(ValueError):
            body_of(other.model_copy(update={"payload": text}))


def test_a_signature_holds_for_its_body_type_and_key_only_whatever_the_key_is_called(key: Ed25519PrivateKey) -> None:
    envelope, pinned = signed(BODY, key), by_id(key)
    other_body = base64.b64encode(b"{}").decode()
    assert holders(envelope.model_copy(update={"payload": other_body}), pinned) == []
    assert holders(envelope.model_copy(update={"payloadType": "application/json"}), pinned) == []
    assert holders(envelope, by_id(Ed25519PrivateKey.generate())) == []
    renamed = [Signature(keyid="f" * 64, sig=envelope.signatures[0].sig)]
    assert holders(envelope.model_copy(update={"signatures": renamed}), pinned) == [KEYID]
    forged = signed(BODY, Ed25519PrivateKey.generate()).signatures[0].model_copy(update={"keyid": KEYID})
    assert holders(envelope.model_copy(update={"signatures": [forged]}), pinned) == []


def test_new_keys_are_private_public_and_never_overwritten(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        private, public = make_keys(tmp_path / "keys", None)
    finally:
        os.umask(old)
    assert (private.name, public.name) == (PRIVATE_NAME, PUBLIC_NAME)
    assert private.stat().st_mode & 0o777 == 0o600
    assert keyid_of(read_private_key(private, None, "X").public_key()) == keyid_of(read_public_key(public))
    before = private.read_bytes()
    for missing in (public, private):
        missing.unlink()
        with pytest.raises(SigningError, match=r"is there already, and keys are never overwritten"):
            make_keys(tmp_path / "keys", None)
        missing.write_bytes(before if missing == private else b"public")
    assert private.read_bytes() == before


def test_an_encrypted_key_wants_its_passphrase_and_says_which_variable_holds_it(tmp_path: Path) -> None:
    private, _ = make_keys(tmp_path, "correct horse")
    assert b"ENCRYPTED" in private.read_bytes()
    read_private_key(private, "correct horse", "SECRET")
    with pytest.raises(SigningError, match=r"encrypted; put its passphrase into the environment variable SECRET"):
        read_private_key(private, None, "SECRET")
    with pytest.raises(SigningError, match=r"is the passphrase in SECRET the right one\?"):
        read_private_key(private, "battery", "SECRET")
    open_key, _ = make_keys(tmp_path / "open", None)
    with pytest.raises(SigningError, match=r"not encrypted, but SECRET holds a passphrase"):
        read_private_key(open_key, "battery", "SECRET")


def test_a_file_that_is_no_ed25519_key_is_refused(tmp_path: Path) -> None:
    private, public = make_keys(tmp_path, None)
    curve = generate_private_key(SECP256R1())
    ec = tmp_path / "ec.pem"
    ec.write_bytes(curve.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(SigningError, match="another kind; ed25519 is needed"):
        read_private_key(ec, None, "X")
    ec.write_bytes(curve.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(SigningError, match="another kind; ed25519 is needed"):
        read_public_key(ec)
    with pytest.raises(SigningError, match="this is a private key, name the public one"):
        read_public_key(private)
    with pytest.raises(SigningError, match="no private key that can be read"):
        read_private_key(public, None, "X")
    with pytest.raises(SigningError, match=r"gone.pem: No such file or directory; make keys with"):
        read_public_key(tmp_path / "gone.pem")


def test_the_envelope_of_a_stage_holds_the_very_bytes_of_its_statement(workspace: Path, key: Ed25519PrivateKey) -> None:
    assert sign_statement(workspace, "train", key)
    path = workspace / "artifacts/signatures/train.dsse.json"
    assert base64.b64decode(json.loads(path.read_bytes())["payload"]) == statement_path(workspace, "train").read_bytes()


def test_what_a_key_has_signed_is_left_alone_and_other_signatures_stay(workspace: Path, key: Ed25519PrivateKey) -> None:
    second = Ed25519PrivateKey.generate()
    path = envelope_path(workspace, "train")
    assert sign_statement(workspace, "train", key)
    first = path.read_bytes()
    assert not sign_statement(workspace, "train", key)
    assert path.read_bytes() == first
    assert sign_statement(workspace, "train", second)
    assert holders(read_envelope(path), by_id(key, second)) == list(by_id(key, second))
    statement_path(workspace, "train").write_bytes(b"{}\n")
    assert sign_statement(workspace, "train", second)
    assert holders(read_envelope(path), by_id(key, second)) == list(by_id(second))
    path.write_bytes(b"broken")
    assert sign_statement(workspace, "train", key)
    assert holders(read_envelope(path), by_id(key)) == [KEYID]


def test_every_state_of_a_signature_has_its_words(workspace: Path, key: Ed25519PrivateKey) -> None:
    pinned = by_id(key)
    assert signature_state(workspace, "train", {}).text == "unsigned"
    unsigned = signature_state(workspace, "train", pinned)
    assert unsigned.text == "unsigned" and "train.dsse.json: missing" in str(unsigned.problem)
    sign_statement(workspace, "train", key)
    unchecked = signature_state(workspace, "train", {})
    assert (unchecked.text, unchecked.problem) == (f"signed, key not checked (keyid {KEYID[:16]})", None)
    checked = signature_state(workspace, "train", pinned)
    assert (checked.text, checked.problem) == (f"signed by pinned key {KEYID[:16]}", None)
    stranger = signature_state(workspace, "train", by_id(Ed25519PrivateKey.generate()))
    assert "not signed by a pinned key" in stranger.text and "train.dsse.json" in str(stranger.problem)


def test_an_envelope_that_was_moved_to_another_stage_is_found_without_any_key(
    workspace: Path, key: Ed25519PrivateKey
) -> None:
    sign_statement(workspace, "train", key)
    envelope_path(workspace, "train").rename(envelope_path(workspace, "assets"))
    for pinned in ({}, by_id(key)):
        state = signature_state(workspace, "assets", pinned)
        assert state.text == "signature of another statement"
        assert str(envelope_path(workspace, "assets")) in str(state.problem)
    assert drop_signature_of_another(workspace, "assets")
    assert not drop_signature_of_another(workspace, "assets")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"payload": "e30=", "payloadType": "application/vnd.in-toto+json"}',
        b'{"payload": "?", "payloadType": "application/vnd.in-toto+json", "signatures": []}',
        b'{"payload": "e30=", "payloadType": "application/json", "signatures": []}',
    ],
)
def test_a_file_that_is_no_envelope_of_a_statement_is_refused(workspace: Path, data: bytes) -> None:
    path = envelope_path(workspace, "train")
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    with pytest.raises(SigningError, match=r"train\.dsse\.json: (not a DSSE envelope|payloadType is)"):
        read_envelope(path)
    assert signature_state(workspace, "train", {}).problem


def test_an_envelope_without_signatures_is_unsigned_and_claims_are_not_printed_as_they_are(
    workspace: Path, key: Ed25519PrivateKey
) -> None:
    path = envelope_path(workspace, "train")
    sign_statement(workspace, "train", key)
    envelope = read_envelope(path)
    path.write_text(envelope.model_copy(update={"signatures": []}).model_dump_json())
    assert signature_state(workspace, "train", {}).text == "unsigned"
    assert signature_state(workspace, "train", by_id(key)).problem
    evil = [Signature(keyid="\x1b[2Jverified by everyone", sig=envelope.signatures[0].sig)]
    path.write_text(envelope.model_copy(update={"signatures": evil}).model_dump_json())
    assert signature_state(workspace, "train", {}).text == "signed, key not checked (keyid of another form)"
