"""Every digest of a workspace again, from assets to report, with the models, the checkpoint and the signatures."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from configs.load import load_resolved
from data.chain import verify_chain
from data.ids import digest_of
from data.outside_text import parse_json
from data.provenance import has_run
from data.shards import sha256_file
from flows.evidence import lock_problems, receipt_problems, recipe_problems, time_warnings
from flows.graph import RECIPE_FILE, load_graph
from flows.promotion.checks import kept_model_problems
from flows.signing import signature_states
from flows.workspace import PROJECT, find_workspace
from models import registry
from models.header import FILE_NAME, read_metadata
from models.training.record import CheckpointRecord


def verify(folder: Path, pinned: Mapping[str, Ed25519PublicKey] | None = None) -> tuple[list[str], list[str]]:
    """Problems found, each naming its file; and the stages that have run. Does not stop at the first problem.

    `pinned`: public keys by id; if there are any, every statement must be signed by one of them.
    """
    workspace = find_workspace(folder)
    names = load_graph(workspace).names
    done = [name for name in names if has_run(workspace, name)]
    problems = digest_problems(workspace) + _model_problems(workspace)
    problems += [state.problem for state in signature_states(workspace, pinned or {}) if state.problem]
    problems += kept_model_problems(workspace, pinned or {})
    if pinned and not done:
        problems.append(f"{workspace / 'artifacts'}: no stage has run here, so that no pinned key signed anything")
    return problems, done


def warnings_of(folder: Path) -> list[str]:
    """What a reader should know and no digest decides: times of statements that cannot be right."""
    workspace = find_workspace(folder)
    graph = load_graph(workspace)
    return time_warnings(workspace, graph, [name for name in graph.names if has_run(workspace, name)])


def digest_problems(workspace: Path) -> list[str]:
    """Problems of files, indexes, statements, receipts and the checkpoint; models and signatures are left out."""
    graph = load_graph(workspace)
    done = [name for name in graph.names if has_run(workspace, name)]
    problems = verify_chain(workspace, graph.names)
    for stage in done:
        problems += recipe_problems(workspace, graph, stage) + receipt_problems(workspace, stage)
    problems += lock_problems(workspace, done) + list(_left_out(workspace, graph.names))
    if "train" in done:
        problems += _checkpoint_problems(workspace)
    return problems


def _left_out(workspace: Path, names: Sequence[str]) -> Iterator[str]:
    """What is there of stages that dvc.yaml, which nobody signs, does not name; it would go unchecked."""
    artifacts = workspace / "artifacts"
    found = {
        **{path: path.name.split(".")[0] for path in sorted((artifacts / "provenance").glob("*.intoto.json"))},
        **{path: path.name.split(".")[0] for path in sorted((artifacts / "signatures").glob("*.dsse.json"))},
        **{artifacts / name: name for name in load_graph(PROJECT).names if (artifacts / name).exists()},
    }
    for path, stage in found.items():
        if stage not in names:
            yield f"{path}: of a stage that {workspace / 'dvc.yaml'} lacks; bring that file back, or delete this one"


def _model_problems(workspace: Path) -> list[str]:
    """Models of the active recipe whose files are not the pinned ones; those behind a server have none to look at."""
    problems = []
    for ref in dict.fromkeys(load_resolved(workspace / RECIPE_FILE).models.by_role.values()):
        if registry.served_name(ref):
            continue
        try:
            registry.locate(ref, offline=True)
        except registry.ModelError as error:
            problems.append(str(error))
    return problems


def _checkpoint_problems(workspace: Path) -> list[str]:
    """Whether the checkpoint's own header names the dataset that is there."""
    file = workspace / "artifacts" / "train" / FILE_NAME
    dataset = workspace / "artifacts" / "shard" / "index.json"
    try:
        record = CheckpointRecord.from_header(read_metadata(file))
    except (OSError, KeyError, ValueError) as error:
        return [f"{file}: its header does not describe a SynCD checkpoint ({error})"]
    named, found = record.dataset_sha256, sha256_file(dataset) if dataset.exists() else "missing"
    problems = [] if found == named else [f"{file}: trained on dataset {named}, {dataset} is {found}"]
    pairs = file.parent / "pairs.json"
    try:
        tars = parse_json(pairs.read_bytes())["tars"] if pairs.exists() else None
        listed = None if tars is None else digest_of([tar["sha256"] for tar in tars])
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [*problems, f"{pairs}: no list of tars ({error!r})"]
    if listed != record.pairs_sha256:
        problems.append(f"{file}: trained on text-image pairs {record.pairs_sha256}, {pairs} lists {listed}")
    return problems
