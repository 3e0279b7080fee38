"""Where the results of a workspace are."""

import os
import shutil
import sys
import webbrowser
from dataclasses import dataclass
from pathlib import Path

from configs.errors import ConfigError
from configs.load import load_resolved
from data.shards import sha256_file
from flows.graph import RECIPE_FILE, index_path, load_graph
from flows.history import current_signature, work_folder
from models.training.folders import features_folder, features_root

DATASET, TRAIN = "shard", "train"

RESULTS = (
    ("report", "artifacts/report/index.html"),
    ("contact sheets", "artifacts/report/contact_sheet.png"),
    ("dataset", "artifacts/shard"),
    ("dataset card", "artifacts/shard/DATASET_CARD.md"),
    ("credits", "artifacts/shard/ATTRIBUTION.md"),
    ("checkpoint", "artifacts/train/pytorch_lora_weights.safetensors"),
    ("model card", "artifacts/train/MODEL_CARD.md"),
    ("evaluation table", "artifacts/evaluate/table.md"),
    ("provenance", "artifacts/provenance"),
)


def print_results(workspace: Path) -> None:
    """One line for each result that is there, and who signed the statements."""
    from flows.console import say
    from flows.signing import signature_states, signature_summary

    found = [(name, workspace / path) for name, path in RESULTS if (workspace / path).exists()]
    width = max((len(name) for name, _ in found), default=0)
    for name, path in found:
        say(f"{name:{width}}  {path}")
    states = signature_states(workspace, {})
    if states:
        say(f"{'signatures':{width}}  {signature_summary(states)}")


def open_report(workspace: Path, show: bool) -> str:
    """Path of the report; opened in a browser if `show` and there is a desktop."""
    path = workspace / "artifacts" / "report" / "index.html"
    if not path.exists():
        raise ConfigError(f"{path}: missing; make it with: syncd run --workspace {workspace}")
    if show and (sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        webbrowser.open(path.as_uri())
    return str(path)


@dataclass(frozen=True)
class OldWork:
    """A folder that nothing resumes from."""

    folder: Path
    bytes: int


def old_work(workspace: Path) -> list[OldWork]:
    """Work folders of stages under another signature than the present one, features of training that the present recipe
    does not use, and what killed runs were building.

    A stage whose inputs are missing has no signature: all of its work stays.
    """
    graph = load_graph(workspace)
    artifacts = workspace / "artifacts"
    found = [*artifacts.glob(".*.building"), *artifacts.glob("models/.*.building")]
    for stage in graph.names:
        signature = current_signature(graph, stage, workspace)
        if signature is not None:
            kept = work_folder(workspace, stage, signature)
            found += [own for own in _folders(kept.parent) if own not in (kept, features_root(workspace))]
            if stage == TRAIN:
                used = _features_in_use(workspace)
                found += [own for own in _folders(used.parent) if own != used]
    return [OldWork(folder, _size(folder)) for folder in found]


def _folders(parent: Path) -> list[Path]:
    return [path for path in sorted(parent.glob("*")) if path.is_dir()]


def _features_in_use(workspace: Path) -> Path:
    """What a training of the present recipe on the present dataset reads."""
    recipe, dataset = load_resolved(workspace / RECIPE_FILE), sha256_file(index_path(workspace, DATASET))
    return features_folder(workspace, recipe.models.customizer, recipe.train, recipe.seed, dataset)


def delete_work(work: list[OldWork]) -> None:
    for item in work:
        shutil.rmtree(item.folder)


def _size(folder: Path) -> int:
    """Bytes that deleting it frees: published shards are links to the same files."""
    files = (path.stat() for path in folder.rglob("*") if path.is_file())
    return sum(file.st_size for file in files if file.st_nlink == 1)
