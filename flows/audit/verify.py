"""`syncd audit verify`: every digest and chain again; with `deep`, every record from the records before it."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.provenance import statement_path
from data.shards import ShardError, load_index, sha256_file
from data.signing import pinned_keys
from data.stage import StageContext
from flows.audit.checks import check_store, earlier_datasets, has_parts
from flows.audit.recorded import check_version, recorded_contexts, recorded_recipe
from flows.audit.store import not_written, update
from flows.graph import load_graph
from flows.signing import signature_states, signature_summary
from flows.verify import verify as verify_files
from flows.verify import warnings_of
from flows.workspace import find_workspace
from tasks.auditing.chain import ChainError, chain_of
from tasks.auditing.checkpoint import LEDGER, PAIRS, SKIPPED


@dataclass(frozen=True)
class Verdict:
    problems: list[str]
    """Each names its file; all that were found."""
    checked: list[str]
    """What was looked at, in words."""
    done: list[str]
    """Stages that have run."""
    missing: list[str]
    """Stages that have not."""
    warnings: list[str]
    """What is odd and yet proves nothing."""
    earlier: list[str]
    """Datasets in the audit store that are no more in the workspace: of these only the statements are checked."""
    signatures: str
    """Who signed the statements, in words."""
    last_statement: str | None
    """Stage and digest of the end of the chain, to be compared with what was published."""


def verify(
    folder: Path,
    deep: bool = False,
    tell: Callable[[str], None] = lambda line: None,
    public_keys: Sequence[Path] = (),
) -> Verdict:
    """Check a workspace: files, indexes, parameters, statements, models, checkpoint, signatures, and the audit store.

    `public_keys`, if there are any: every statement must be signed by one of them.
    `deep`: also every record and image from the stages before it, and the ledger from the seed of the training.
    The audit store takes in what it lacks unless there are problems: what does not agree is no record of anything.
    `tell` gets a line before each long step. ConfigError for a workspace of another version of the code.
    """
    workspace = find_workspace(folder)
    tell("digests of all files and models")
    pinned = pinned_keys(public_keys)
    problems, done = verify_files(workspace, pinned)
    checked = ["files, indexes, parameters, statements", "models and checkpoint" if "train" in done else "models"]
    if deep and "shard" in done:
        problems += record_problems(workspace, "train" in done, tell, checked)
    tell("audit store")
    warnings = warnings_of(workspace)
    if not problems:
        problems += _brought_up_to_date(workspace, warnings)
    problems += check_store(workspace, deep)
    checked += ["audit store"] if has_parts(workspace) else []
    missing = [name for name in load_graph(workspace).names if name not in done]
    return Verdict(
        problems=list(dict.fromkeys(problems)),
        checked=checked,
        done=done,
        missing=missing,
        warnings=warnings,
        earlier=earlier_datasets(workspace),
        signatures=signature_summary(signature_states(workspace, pinned)),
        last_statement=f"{done[-1]} {sha256_file(statement_path(workspace, done[-1]))}" if done else None,
    )


def _brought_up_to_date(workspace: Path, warnings: list[str]) -> list[str]:
    """Why the audit store could not take in what the workspace holds; a store that cannot be written to is a warning,
    since it says nothing of the files."""
    try:
        return update(workspace)
    except OSError as error:
        warnings.append(not_written(workspace, error))
        return []


def record_problems(workspace: Path, trained: bool, tell: Callable[[str], None], checked: list[str]) -> Iterator[str]:
    """Problems of every check of records, each told before it begins and then added to `checked`."""
    from tasks.auditing import records

    try:
        chain = chain_of(workspace, "shard")
    except ChainError as error:
        yield f"records cannot be checked: {error}"
        return
    for link in chain:
        check_version(link)
    with recorded_contexts(workspace, chain) as of:
        checks: dict[str, Callable[[], Iterator[str]]] = {
            "meshes": lambda: records.check_meshes(of["render"]),
            "records of render from assets": lambda: records.check_rendered(of["render"]),
            "records of generate from prompts, views and recipe": lambda: records.check_generated(of["generate"]),
            "decisions from scores": lambda: records.check_decisions(of["select"]),
            "published records and images from those before": lambda: records.check_published(of["shard"]),
        }
        if trained:
            checks["ledger from the seed of the training"] = lambda: _check_ledger(workspace, of["shard"])
        for name, check in checks.items():
            tell(name)
            try:
                yield from check()
            except (ChainError, ShardError, OSError, LookupError, ValueError) as error:
                yield f"{name}: cannot be checked any further: {type(error).__name__}: {error}"
            checked.append(name)


def _check_ledger(workspace: Path, shard: StageContext) -> Iterator[str]:
    from tasks.auditing.draws import check_draws
    from tasks.auditing.records import samples_of

    train = chain_of(workspace, "train")[-1]
    check_version(train)
    recipe, folder = recorded_recipe([train]), workspace / "artifacts" / "train"
    tars = json.loads((folder / PAIRS).read_bytes())["tars"] if (folder / PAIRS).exists() else []
    lost = json.loads((folder / SKIPPED).read_bytes())["images"] if (folder / SKIPPED).exists() else []
    skipped = frozenset(failure["key"] for failure in lost)
    index, samples = load_index(workspace / "artifacts" / "shard"), samples_of(shard)
    with (folder / LEDGER).open("rb") as lines:
        rows = (json.loads(line) for line in lines)
        yield from check_draws(rows, index, samples, recipe.train, recipe.seed, tars, skipped)
