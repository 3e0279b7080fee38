"""Who signed the statements of an answer: the store keeps statements, the workspace their signatures."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data.provenance import statement_path
from data.shards import sha256_file
from data.signing import pinned_keys, signature_state
from tasks.auditing.chain import SUFFIX

NOT_HERE = "another run's, not here"
"""Of a statement that is no longer that of a stage in this workspace."""


def tell_signatures(answer: Any, workspace: Path, public_keys: Sequence[Path] = ()) -> None:
    """Add `signed` to every statement in an answer: `unsigned`, who claims to have signed it, or which of the pinned
    keys did. SigningError for a file that holds no public key."""
    pinned = pinned_keys(public_keys)
    states = {
        sha256_file(path): signature_state(workspace, path.name.removesuffix(SUFFIX), pinned).text
        for path in statement_path(workspace, "any").parent.glob(f"*{SUFFIX}")
        if path.is_file()
    }
    for row in _statements(answer):
        row["signed"] = states.get(row["statement"], NOT_HERE)


def _statements(answer: Any) -> Iterator[dict[str, Any]]:
    if isinstance(answer, dict):
        yield from answer.get("chain", ())
        answer = [value for name, value in answer.items() if name != "chain"]
    if isinstance(answer, list):
        for value in answer:
            yield from _statements(value)
