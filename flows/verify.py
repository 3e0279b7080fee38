"""Every digest of a workspace again, from assets to report, with the models and the checkpoint."""

import json
from pathlib import Path

from safetensors import SafetensorError

from configs.load import load_resolved
from data.ids import digest_of
from data.provenance import has_run, verify_chain
from data.shards import sha256_file
from flows.graph import RECIPE_FILE, load_graph
from flows.workspace import find_workspace
from models import registry
from models.lora import FILE_NAME, read_metadata
from models.training.record import CheckpointRecord


def verify(folder: Path) -> tuple[list[str], list[str]]:
    """Problems found, each naming its file; and the stages that have run. Does not stop at the first problem."""
    workspace = find_workspace(folder)
    names = load_graph(workspace).names
    done = [name for name in names if has_run(workspace, name)]
    problems = verify_chain(workspace, names) + _model_problems(workspace)
    if "train" in done:
        problems += _checkpoint_problems(workspace)
    return problems, done


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
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        return [f"{file}: its header does not describe a SynCD checkpoint ({error})"]
    named, found = record.dataset_sha256, sha256_file(dataset) if dataset.exists() else "missing"
    problems = [] if found == named else [f"{file}: trained on dataset {named}, {dataset} is {found}"]
    pairs = file.parent / "pairs.json"
    listed = digest_of([tar["sha256"] for tar in json.loads(pairs.read_bytes())["tars"]]) if pairs.exists() else None
    if listed != record.pairs_sha256:
        problems.append(f"{file}: trained on text-image pairs {record.pairs_sha256}, {pairs} lists {listed}")
    return problems
