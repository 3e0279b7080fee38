"""`syncd audit report`: one page for a reader without this project, and the same facts for programs."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from data.audit.parts import store_folder
from data.audit.query import Store
from data.shards import load_index, write_atomic
from flows.audit.signed import tell_signatures
from flows.audit.store import dataset_here, open_store
from flows.audit.trace import as_json, trace_checkpoint, trace_dataset
from flows.audit.verify import verify
from flows.workspace import find_workspace
from tasks.auditing.chain import CHECKPOINT_STAGE, weights_sha256

PAGE, DATA = "index.html", "audit.json"
Answer = dict[str, Any]


def write_report(folder: Path, out: Path | None, deep: bool) -> tuple[Path, Path, int]:
    """Paths of the page and of the JSON, and how many problems were found. AuditError without a dataset."""
    workspace = find_workspace(folder)
    store = open_store(workspace)
    facts = report_facts(workspace, store, deep)
    target = out or store_folder(workspace) / "report"
    target.mkdir(parents=True, exist_ok=True)
    write_atomic(target / DATA, as_json(facts).encode() + b"\n")
    write_atomic(target / PAGE, page(facts).encode())
    return target / PAGE, target / DATA, len(facts["verification"]["problems"])


def report_facts(workspace: Path, store: Store, deep: bool) -> Answer:
    """Everything on the page; `behind` is the trace of what the workspace holds at present, None if that is no part of
    the store."""
    verdict, behind = verify(workspace, deep), _present(workspace, store)
    tell_signatures(behind, workspace)
    return {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "verification": {"holds": not verdict.problems, "deep": deep, **asdict(verdict)},
        "behind": behind,
        "datasets": store.rows("SELECT * FROM datasets ORDER BY finished, dataset_sha256"),
        "checkpoints": store.rows(
            """
            SELECT c.*, count(*) FILTER (use = 'target') AS as_target,
                   count(*) FILTER (use = 'reference') AS as_reference, count(*) FILTER (use = 'pair') AS pairs,
                   count(DISTINCT sample_id) AS samples
            FROM checkpoints c LEFT JOIN ledger USING (checkpoint_sha256)
            GROUP BY ALL ORDER BY c.finished, checkpoint_sha256
            """
        ),
    }


def _present(workspace: Path, store: Store) -> Answer | None:
    train = workspace / "artifacts" / CHECKPOINT_STAGE
    if (train / "index.json").exists():
        sha256 = weights_sha256(load_index(train))
        if store.resolve("checkpoints", sha256) is not None:
            return trace_checkpoint(store, sha256)
    dataset = dataset_here(workspace)
    if dataset is None or store.resolve("datasets", dataset) is None:
        return None
    return trace_dataset(store, dataset)


def page(facts: Answer) -> str:
    """A page that loads nothing from elsewhere. Everything that a value holds is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("page.html.j2").render(facts=facts, tiles=_tiles(facts))


def _tiles(facts: Answer) -> Sequence[tuple[Any, str]]:
    behind = facts["behind"]
    dataset = behind and behind["dataset"]
    tiles = [(len(facts["datasets"]), "datasets on record"), (len(facts["checkpoints"]), "checkpoints on record")]
    if dataset:
        tiles += [(dataset[name], f"{name if name != 'samples' else 'images'} in the dataset") for name in _COUNTED]
        tiles.append((len(behind["licences"]), "licences of assets"))
    if behind and "uses" in behind:
        tiles += [(behind["uses"]["as_target"], "images drawn as target")]
        tiles += [(behind["uses"]["as_reference"], "images shown as reference")]
    return tiles


_COUNTED = ("objects", "sets", "samples")
