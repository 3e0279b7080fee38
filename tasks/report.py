"""Report: the run as one static HTML page that opens from disk, and its contact sheet as one PNG.

The page is a function of the input stages, their statements and signatures, so equal inputs give equal bytes.
Statements hold the times of the run that made them: the durations, statement digests and signatures on the page differ
between runs, and nothing else.
"""

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from data.provenance import statement_path
from data.shards import ShardIndex, ShardWriter, read_all
from data.stage import ShardSpec, StageContext
from tasks.reporting import evaluation, pipeline, scores, training
from tasks.reporting.sets import ShownSet, Verdict, choose, load_sets, set_view, spaced
from tasks.reporting.sheet import contact_sheet
from tasks.reporting.statements import StatementView, statement_view

PAGE, SHEET = "index.html", "contact_sheet.png"
COVERAGE = "coverage.json"
SHEET_SETS = 12
CONTENTS = (
    ("pipeline", "Pipeline"),
    ("prompts", "Prompts"),
    ("sets", "Image sets"),
    ("scores", "Scores"),
    ("training", "Training"),
    ("evaluation", "Evaluation"),
    ("failures", "Failures"),
    ("provenance", "Provenance"),
)


def plan(ctx: StageContext) -> list[ShardSpec]:
    """No shards: the page is written when the stage is finished."""
    return []


def run_shard(ctx: StageContext, spec: ShardSpec, out: ShardWriter) -> None:
    raise ValueError(f"report has no shard {spec.index}; its page is written by finalize")


def finalize(ctx: StageContext, index: ShardIndex, out_dir: Path) -> dict[str, Any]:
    return write_report(ctx, out_dir)


def write_report(ctx: StageContext, out_dir: Path) -> dict[str, Any]:
    """Writes `index.html` and, if a set was scored, `contact_sheet.png` into `out_dir`; returns what they show.

    Stages of `ctx.inputs` that have not finished are named on the page as missing. Raises ShardError for an input
    that is not the bytes its index vouches for.
    """
    indexes = pipeline.finished(ctx, ctx.inputs)
    decisions = _decisions(ctx, indexes)
    shown = load_sets(ctx, choose(decisions, ctx.recipe.report.max_sets)) if decisions else []
    statements = {stage: statement_view(ctx.workspace, stage) for stage in indexes if _stated(ctx, stage)}
    links = [link for view in statements.values() for link in view.links]
    broken = sum(not link.holds for link in links)
    failed = pipeline.failures(indexes)
    miniature = any(model.source.startswith("miniature:") for model in ctx.recipe.models.by_role.values())
    source = " (miniature)" if miniature else ""
    page = _template().render(
        name=ctx.recipe.name,
        facts=_facts(ctx, statements),
        miniature=miniature,
        source=source,
        missing=[stage for stage in ctx.inputs if stage not in indexes],
        contents=CONTENTS,
        tiles=_tiles(indexes, failed.total),
        stages=[_row(stage, indexes, statements) for stage in ctx.inputs],
        coverage=json.loads(pipeline.read_file(ctx, "prompts", COVERAGE)) if "prompts" in indexes else None,
        set_groups=_groups(shown, decisions),
        no_sets="No set has been scored and decided on yet.",
        histograms=scores.charts(pipeline.read_file(ctx, "select", scores.FILE)) if decisions else [],
        training=training.curves(_metrics(ctx)) if "train" in indexes else [],
        training_note=training.note(ctx, indexes["train"]) if "train" in indexes else "",
        evaluation=evaluation.view(ctx) if "evaluate" in indexes else None,
        no_evaluation=_no_evaluation(indexes),
        failures=failed,
        ruled_out=pipeline.ruled_out(ctx) if "assets" in indexes else [],
        statements=list(statements.values()),
        total_links=len(links),
        broken_links=broken,
    )
    (out_dir / PAGE).write_text(page, encoding="utf-8", newline="\n")
    if shown:
        title = f"{ctx.recipe.name}{source}: {min(len(shown), SHEET_SETS)} of {len(decisions)} sets"
        (out_dir / SHEET).write_bytes(contact_sheet(spaced(shown, SHEET_SETS), title))
    return {"sets_shown": len(shown), "failed_keys": failed.total, "broken_links": broken}


def _metrics(ctx: StageContext) -> list[training.Row]:
    return training.read_metrics(pipeline.read_file(ctx, "train", training.FILE))


def _template() -> Any:
    """Everything that a value holds is escaped; a name that the page needs and nobody gives is an error."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("report.html.j2")


def _decisions(ctx: StageContext, indexes: dict[str, ShardIndex]) -> list[Verdict]:
    if not {"generate", "score", "select"} <= set(indexes):
        return []
    samples = read_all(ctx.output_dir("select"), indexes["select"])
    return [Verdict(sample.record["set_id"], sample.record["kept"]) for sample in samples]


def _stated(ctx: StageContext, stage: str) -> bool:
    return statement_path(ctx.workspace, stage).exists()


def _row(stage: str, indexes: dict[str, ShardIndex], statements: dict[str, StatementView]) -> pipeline.StageRow:
    seconds = statements[stage].seconds if stage in statements else None
    return pipeline.stage_row(stage, indexes.get(stage), seconds)


def _facts(ctx: StageContext, statements: dict[str, StatementView]) -> list[str]:
    """Seed, source and, from the statements, the models and commits of the run."""
    models = {f"{model.role} {model.name}": None for view in statements.values() for model in view.models}
    commits = {view.commit: None for view in statements.values() if view.commit}
    return [f"seed {ctx.recipe.seed}", f"assets: {ctx.recipe.assets.source}", *models, *commits]


def _tiles(indexes: dict[str, ShardIndex], failed: int) -> list[dict[str, Any]]:
    """The run in a few numbers, as far as it has come."""
    of = {stage: index.summary for stage, index in indexes.items()}
    tiles = []
    if "assets" in of:
        tiles.append({"value": of["assets"]["objects"], "label": f"objects, {of['assets']['held_out']} held out"})
    if "generate" in of:
        tiles.append({"value": of["generate"]["sets"], "label": f"sets, {of['generate']['images']} images generated"})
    if "select" in of:
        share = of["select"]["set_yield"]
        label = "sets kept" if share is None else f"sets kept, {share:.0%}"
        tiles.append({"value": of["select"]["kept_sets"], "label": label})
    if "shard" in of:
        tiles.append({"value": of["shard"]["images"], "label": "images in the dataset"})
    if "train" in of:
        tiles.append({"value": of["train"]["steps"], "label": "training steps"})
    tiles.append({"value": failed, "label": "failed keys"})
    return tiles


def _groups(shown: list[ShownSet], decisions: list[Verdict]) -> list[dict[str, Any]]:
    groups = []
    for kept, word in ((True, "Kept"), (False, "Dropped")):
        sets = [set_view(item) for item in shown if item.decision.kept == kept]
        total = sum(decision.kept == kept for decision in decisions)
        if total:
            groups.append({"title": f"{word}: {len(sets)} of {total}", "sets": sets})
    return groups


def _no_evaluation(indexes: dict[str, ShardIndex]) -> str:
    if "evaluate" not in indexes:
        return "The evaluate stage has not finished."
    failed = len(indexes["evaluate"].failed)
    if failed:
        return f"All {failed} objects failed, see Failures."
    return "No object of this recipe is held out, so there is nothing to evaluate on."
