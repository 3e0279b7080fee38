"""Whether the models that a workspace keeps are what was judged: for `syncd verify`."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from configs.errors import ConfigError
from data.outside_text import parse_json
from data.provenance import read_statement
from data.shards import ShardError, sha256_file
from data.signing import SigningError, body_of, holders, read_envelope
from flows.promotion.store import Store
from models.header import FILE_NAME


def kept_model_problems(workspace: Path, pinned: Mapping[str, Ed25519PublicKey]) -> list[str]:
    """Weights that are not the registered ones, or that no statement beside them vouches for, and a current.json that
    says something else than the history. With `pinned` keys the statement must be signed by one of them."""
    store = Store(workspace)
    kept = sorted(store.folder.glob("[0-9a-f]*/model.json"))
    problems = [problem for path in kept for problem in _of_model(path.parent, pinned)]
    current, history = store.folder / "current.json", store.folder / "history.jsonl"
    try:
        pointer = store.pointer()
    except (ConfigError, OSError, ValueError, KeyError, TypeError) as error:
        return [*problems, f"{history}: cannot be followed ({' '.join(str(error).split())[:200]})"]
    found = current.read_bytes() if current.is_file() else None
    if found != pointer:
        problems.append(f"{current}: not the model that {history} made current; syncd retrain writes it again")
    return problems


def _of_model(folder: Path, pinned: Mapping[str, Ed25519PublicKey]) -> Iterator[str]:
    weights, statement = folder / FILE_NAME, folder / "provenance" / "train.intoto.json"
    try:
        registered = parse_json((folder / "model.json").read_bytes())["sha256"]
        named = {item["name"]: item.get("digest", {}).get("sha256") for item in read_statement(statement)["subject"]}
    except (OSError, ValueError, KeyError, TypeError, ShardError) as error:
        yield f"{folder}: not a kept model ({' '.join(str(error).split())[:200]})"
        return
    found = sha256_file(weights) if weights.is_file() else "missing"
    if found != registered:
        yield f"{weights}: {found}, registered as {registered}"
    vouched = named.get(f"artifacts/train/{FILE_NAME}")
    if vouched != found:
        yield f"{weights}: {found}, {statement} vouches for {vouched}"
    if pinned:
        envelope = statement.with_name("train.dsse.json")
        try:
            signed = read_envelope(envelope)
        except SigningError as error:
            yield str(error)
            return
        if body_of(signed) != statement.read_bytes() or not holders(signed, pinned):
            yield f"{envelope}: no signature of {statement} by a pinned key"
