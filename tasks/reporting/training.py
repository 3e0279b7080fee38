"""Training curves and what the checkpoint was made from."""

import json
from typing import Any

from markupsafe import Markup

from data.shards import ShardIndex, sha256_file
from data.stage import StageContext
from tasks.reporting.charts import line_chart, smooth
from tasks.reporting.pipeline import index_file

FILE = "metrics.jsonl"
Row = dict[str, float]
TITLES = {"loss": "flow loss", "gradient_norm": "gradient norm, before clipping", "step_size": "step size"}


def read_metrics(data: bytes) -> list[Row]:
    """Rows of a `metrics.jsonl`: one per step, with `step` and numbers."""
    return [json.loads(line) for line in data.splitlines()]


def curves(rows: list[Row]) -> list[Markup]:
    """One chart per number that the rows hold; the loss with its moving average. None if there is no row."""
    if not rows:
        return []
    charts = []
    names = [*TITLES, *sorted(set(rows[0]) - set(TITLES) - {"step"})]
    for name in names:
        points = [(row["step"], row[name]) for row in rows if name in row]
        if not points:
            continue
        series = {"each step": points}
        if name == "loss":
            series["moving average"] = smooth(points)
        charts.append(line_chart(TITLES.get(name, name.replace("_", " ")), series, "step"))
    return charts


def _pairs(summary: dict[str, Any]) -> str:
    if "pairs" not in summary:
        return ""
    skipped = sum(summary["pairs_skipped"].values())
    return f", {summary['pairs_seen']} of the samples text-image pairs out of {summary['pairs']} ({skipped} skipped)"


def _skipped(summary: dict[str, Any]) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in summary.get("images_skipped", {}).items())
    return f", images skipped: {reasons}" if reasons else ""


def note(ctx: StageContext, index: ShardIndex) -> str:
    """The run in a sentence or two, with the dataset that the checkpoint says it was trained on."""
    section, summary = ctx.recipe.train, index.summary
    dataset = summary["dataset_sha256"]
    said = (
        f"{summary['steps']} steps of {section.batch * section.accumulate}, {section.optimizer}, LoRA rank "
        f"{section.lora_rank} on {section.lora_targets.replace('_', ' and ')}, 1 to {section.max_references} "
        f"references, from {summary['base_model'].partition('@')[0]}. {summary['samples_seen']} samples of "
        f"{summary['sets_seen']} sets were consumed{_pairs(summary)}{_skipped(summary)}. The checkpoint names the "
        f"dataset {dataset[:16]}"
    )
    published = index_file(ctx, "shard")
    same = published.exists() and sha256_file(published) == dataset
    return said + (", which is the one of this run." if same else ", which is NOT the one of this run.")
