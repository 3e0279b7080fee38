"""Who signed what is behind a checkpoint: said beside every statement of a trace."""

from pathlib import Path

from data.provenance import statement_path
from data.signing import make_keys, read_private_key, sign_statement
from flows.audit.signed import NOT_HERE, tell_signatures
from flows.audit.store import open_store
from flows.audit.trace import trace


def signed(workspace: Path, *keys: Path) -> dict[str, str]:
    answer = trace(open_store(workspace), str(workspace / "artifacts" / "train"))
    tell_signatures({"behind": answer}, workspace, keys)
    return {row["stage"]: row["signed"] for row in answer["chain"]}


def test_a_trace_says_of_every_statement_who_signed_it(workspace: Path, tmp_path: Path) -> None:
    stages = signed(workspace).keys()
    assert set(signed(workspace).values()) == {"unsigned"} and len(stages) == 8
    (workspace / "dvc.yaml").unlink()  # as in a copy of the artifacts alone
    private, public = make_keys(tmp_path / "keys", None)
    for stage in stages:
        sign_statement(workspace, stage, read_private_key(private, None, ""))
    assert all(text.startswith("signed, key not checked (keyid ") for text in signed(workspace).values())
    assert all(text.startswith("signed by pinned key ") for text in signed(workspace, public).values())
    other = make_keys(tmp_path / "others", None)[1]
    assert set(signed(workspace, other).values()) == {"not signed by a pinned key"}
    changed = statement_path(workspace, "render")
    body = changed.read_bytes()
    changed.unlink()
    changed.write_bytes(body + b"\n")
    assert signed(workspace, public)["render"] == NOT_HERE
