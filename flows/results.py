"""Where the results of a workspace are."""

import os
import shutil
import sys
import webbrowser
from pathlib import Path

from configs.load import ConfigError
from flows.graph import load_graph
from flows.history import current_signature, work_folder

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
    """One line for each result that is there."""
    from flows.console import say

    found = [(name, workspace / path) for name, path in RESULTS if (workspace / path).exists()]
    width = max((len(name) for name, _ in found), default=0)
    for name, path in found:
        say(f"{name:{width}}  {path}")


def open_report(workspace: Path, show: bool) -> str:
    """Path of the report; opened in a browser if `show` and there is a desktop."""
    path = workspace / "artifacts" / "report" / "index.html"
    if not path.exists():
        raise ConfigError(f"{path}: missing; make it with: syncd run --workspace {workspace}")
    if show and (sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        webbrowser.open(path.as_uri())
    return str(path)


def delete_old_work(workspace: Path) -> int:
    """Delete work folders under another signature than the present one; bytes freed."""
    graph = load_graph(workspace)
    freed = 0
    for stage in graph.names:
        signature = current_signature(graph, stage, workspace)
        if signature is None:
            continue
        kept = work_folder(workspace, stage, signature)
        for folder in sorted(kept.parent.glob("*")):
            if folder.is_dir() and folder != kept:
                freed += sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
                shutil.rmtree(folder)
    return freed
