"""The `syncd` command. What a command needs is imported when it runs, so that help comes at once."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.ablation.commands import ablate
from flows.audit.commands import audit, verify
from flows.deployment.commands import deploy
from flows.keys import keys, sign
from flows.miniature import miniature
from flows.options import (
    HERE,
    JsonOption,
    RecipeOption,
    RuntimeOption,
    SetOption,
    WorkersOption,
    WorkspaceOption,
    runtime_of,
)
from flows.pipeline import run_pipeline
from flows.promotion.commands import models, retrain
from flows.remote import pull, push
from flows.simulation.commands import simulate
from flows.stopping import EXIT_CODE as STOP_CODE
from flows.stopping import MESSAGE as STOP_MESSAGE
from flows.stopping import exit_on_sigterm
from flows.study_commands import study
from flows.takedown.commands import revoke

if TYPE_CHECKING:
    pass

app = typer.Typer(
    name="syncd",
    help="Regenerate the Synthetic Customization Dataset, train on it and evaluate.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(miniature, name="miniature")
app.add_typer(ablate, name="ablate")
app.add_typer(models, name="models")
app.add_typer(keys, name="keys")
app.command()(sign)
app.add_typer(audit, name="audit")
app.command(name="verify")(verify)
app.add_typer(study, name="study")
app.command()(simulate)
app.command()(push)
app.command()(pull)

STOPPED = {130: "interrupted; finished shards are kept, the same command resumes", STOP_CODE: STOP_MESSAGE}
"""What is said for the exit code that typer makes of Ctrl-C, and for that of SIGTERM."""


@app.command()
def run(
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    workspace: WorkspaceOption = HERE,
    until: Annotated[str | None, typer.Option(help="Last stage to run.")] = None,
    runtime: RuntimeOption = None,
    workers: WorkersOption = None,
) -> None:
    """Run the pipeline: every stage that is not up to date, resuming where it stopped."""
    from flows.graph import load_graph
    from flows.workspace import PROJECT, choose_recipe, locked, prepare_workspace

    chosen = runtime_of(runtime, workers)
    wanted = choose_recipe(workspace.resolve(), recipe, tuple(overrides or ()))
    load_graph(PROJECT).until(until)
    with locked(workspace):
        run_pipeline(prepare_workspace(workspace, wanted), until, chosen)


@app.command()
def evaluate(
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    workspace: WorkspaceOption = HERE,
    checkpoint: Annotated[
        str | None,
        typer.Option(help="LoRA file, path or URL, to score on a published benchmark, without running the pipeline."),
    ] = None,
    runtime: RuntimeOption = None,
    workers: WorkersOption = None,
) -> None:
    """Run the pipeline as far as the evaluation, or score a checkpoint alone; objects that are done are kept."""
    if checkpoint is None:
        run(recipe, overrides, workspace, "evaluate", runtime, workers)
        return
    import uuid

    from flows.workspace import choose_recipe, run_environment

    folder, how = workspace.resolve(), runtime_of(runtime, workers)
    chosen = choose_recipe(folder, recipe, tuple(overrides or ()))
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.update(run_environment(folder, how, run_id=str(uuid.uuid4())))
    from flows.checkpoint import evaluate_by_flow
    from flows.fetching import checkpoint_at

    with checkpoint_at(checkpoint) as file:
        evaluate_by_flow(file, chosen, folder, how)
    found = folder / "artifacts" / "evaluate"
    typer.echo("\n" + (found / "table.md").read_text(encoding="utf-8"))
    typer.echo(found)


app.command()(retrain)
app.command()(deploy)
app.command()(revoke)


@app.command()
def plan(
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    workspace: WorkspaceOption = HERE,
    until: Annotated[str | None, typer.Option(help="Last stage to plan.")] = None,
    runtime: RuntimeOption = None,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what would run and why, shards done and total, estimated time and disk, and the memory its models need."""
    from flows.forecast import memory_json, memory_table
    from flows.plan import make_plan, plan_json, plan_table
    from flows.workspace import choose_recipe, planned_in

    folder, how = workspace.resolve(), runtime_of(runtime, workers)
    chosen = choose_recipe(folder, recipe, tuple(overrides or ()))
    with planned_in(folder, chosen) as place:
        planned = make_plan(place, how, until)
    if as_json:
        _show([], {"stages": plan_json(planned), "memory": memory_json(chosen, how)}, as_json)
        return
    for table in (plan_table(planned), memory_table(chosen, how)):
        _show(table, None, as_json)


@app.command()
def status(workspace: WorkspaceOption = HERE, as_json: JsonOption = False) -> None:
    """Show per stage what is done, what failed by reason, what was kept, and the rate of one worker."""
    from flows.status import status as stage_states
    from flows.status import status_json, status_table
    from flows.workspace import find_workspace

    folder = find_workspace(workspace)
    states = stage_states(folder)
    _show(status_table(states), status_json(states, folder) if as_json else None, as_json)


@app.command(name="retry-failed")
def retry_failed(
    stage: Annotated[str | None, typer.Argument(help="Only this stage.")] = None,
    reason: Annotated[str | None, typer.Option(help="Only keys that failed for this reason.")] = None,
    workspace: WorkspaceOption = HERE,
    run: Annotated[bool, typer.Option(help="Run the pipeline afterwards, or only put the keys in the queue.")] = True,
    runtime: RuntimeOption = None,
    workers: WorkersOption = None,
) -> None:
    """Make the shards that hold failed keys again, then whatever depends on them."""
    from flows.requeue import requeue_failed
    from flows.workspace import find_workspace, locked

    folder, how = find_workspace(workspace), runtime_of(runtime, workers)
    with locked(folder):
        queued = requeue_failed(folder, stage, reason, how)
    for item in queued:
        typer.echo(f"{item.stage}: {len(item.keys)} failed keys in {len(item.shards)} shards queued again")
    if not queued:
        typer.echo("nothing failed" + (f" for reason {reason}" if reason else ""))
    elif run:
        run_pipeline(folder, None, how)
    else:
        typer.echo("run them with: syncd run")


@app.command(name="run-shard")
def run_shard(
    stage: Annotated[str, typer.Argument()],
    index: Annotated[int, typer.Option(min=0, help="Number of the shard, or of the share with --of; from 0.")],
    of: Annotated[
        int | None, typer.Option(min=1, help="Make every so many-th shard: that many tasks make the stage.")
    ] = None,
    workspace: WorkspaceOption = HERE,
    runtime: RuntimeOption = None,
) -> None:
    """Make shards for a batch scheduler; `syncd run` then finds their receipts and only finishes the stage.

    In a Slurm job array: syncd run-shard STAGE --index $SLURM_ARRAY_TASK_ID --of $SLURM_ARRAY_TASK_COUNT
    """
    from flows.batch import run_share
    from flows.workspace import find_workspace, run_environment

    folder, chosen = find_workspace(workspace), runtime_of(runtime, None)
    os.environ.update(run_environment(folder, chosen, os.environ.get("SYNCD_RUN_ID", "")))
    empty = True
    for receipt in run_share(stage, index, of, folder, chosen):
        empty, counts = False, f"{len(receipt.keys)} done, {len(receipt.failed)} failed"
        typer.echo(f"{stage}: shard {receipt.index}: {counts}, {receipt.sha256}")
    if empty:
        typer.echo(f"{stage}: share {index} of {of} holds no shard")


@app.command()
def doctor(
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    workspace: WorkspaceOption = HERE,
    runtime: RuntimeOption = None,
) -> None:
    """Check rendering, GPU, disk, packages, and the files and models of a recipe; each lack comes with its fix."""
    from flows.doctor import active_recipe, examine
    from flows.tables import print_table
    from flows.workspace import choose_recipe

    folder = workspace.resolve()
    chosen = choose_recipe(folder, recipe, tuple(overrides or ())) if recipe or overrides else active_recipe(folder)
    checks = examine(folder, chosen, runtime_of(runtime, None))
    print_table([["check", "", "found"], *([check.name, check.verdict, check.detail] for check in checks)])
    for check in checks:
        if check.fix:
            typer.echo(f"{check.name}: {check.fix}")
    if any(check.verdict == "broken" for check in checks):
        raise typer.Exit(1)


@app.command()
def inspect(
    set_id: Annotated[
        str,
        typer.Argument(
            help="For example mug-red-blue-striped-03-s0; a wrong one lists some. Or a PNG that syncd sample made."
        ),
    ],
    workspace: WorkspaceOption = HERE,
    out: Annotated[Path | None, typer.Option(help="The picture; default: SET_ID.png in artifacts/inspect.")] = None,
) -> None:
    """Show one set: its views, depth, masks, correspondences, images, scores and decision. Or how a sample was made."""
    if set_id.endswith(".png"):
        from flows.sampling import provenance_lines

        typer.echo("\n".join(provenance_lines(Path(set_id))))
        return
    from configs.load import load_resolved
    from data.shards import write_atomic
    from flows.graph import RECIPE_FILE
    from flows.workspace import find_workspace
    from tasks.inspect_set import inspect_set

    folder = find_workspace(workspace)
    seen = inspect_set(folder, set_id, load_resolved(folder / RECIPE_FILE))
    typer.echo("\n".join(seen.lines))
    if seen.picture:
        path = out or folder / "artifacts" / "inspect" / f"{set_id}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, seen.picture)
        typer.echo(f"picture      {path}")


@app.command()
def report(
    workspace: WorkspaceOption = HERE,
    show: Annotated[bool, typer.Option("--open/--no-open", help="Open it in a browser if there is a desktop.")] = True,
) -> None:
    """Print where the report is, and open it."""
    from flows.results import open_report

    typer.echo(open_report(workspace.resolve(), show))


@app.command()
def sample(
    reference: Annotated[list[Path], typer.Option(help="Picture of the object; repeat for several.")],
    prompt: Annotated[str, typer.Option(help="What the new picture shows.")],
    mask: Annotated[
        list[Path] | None,
        typer.Option(help="Picture that is not black on the object; one for each reference, in their order."),
    ] = None,
    segment: Annotated[
        str | None,
        typer.Option(help="What the object is called: models.segmenter finds it, which is as good as masks."),
    ] = None,
    out: Annotated[Path, typer.Option(help="PNG to write; of several, -1, -2, ... come before its ending.")] = Path(
        "sample.png"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Of the first picture; the next ones count up.")] = 0,
    count: Annotated[int, typer.Option(min=1, help="Pictures to make.")] = 1,
    height: Annotated[int | None, typer.Option(min=1, help="Pixels; default: as in training.")] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Pixels; default: as in training.")] = None,
    steps: Annotated[int | None, typer.Option(help="evaluate.steps of the recipe, for this call.")] = None,
    guidance: Annotated[
        str | None, typer.Option(help="evaluate.guidance.form: normalised, plain or projected.")
    ] = None,
    image_scale: Annotated[
        float | None, typer.Option(help="evaluate.guidance.image_scale: weight of references.")
    ] = None,
    text_scale: Annotated[
        float | None, typer.Option(help="evaluate.guidance.text_scale: weight of the prompt.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="evaluate.dtype: float32 or bfloat16.")] = None,
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="LoRA file or folder of a train stage, path or URL, of FLUX or a U-Net: its header says which; "
            "default: the workspace's."
        ),
    ] = None,
    workspace: WorkspaceOption = HERE,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda:N")] = "auto",
) -> None:
    """Make pictures of the object in the references, as the prompt says.

    References with masks are cut to a square around the object, those without to their middle square. Settings are
    those of the recipe's evaluate section. What a picture was made from is in it: syncd inspect FILE.png
    """
    from flows.fetching import checkpoint_at
    from flows.sampling import Wish, overrides_of, sample_to_file

    short = {"steps": steps, "guidance": guidance, "image_scale": image_scale, "text_scale": text_scale, "dtype": dtype}
    with checkpoint_at(checkpoint) as file:
        wish = Wish(reference, prompt, out, mask or (), segment, seed, count, height, width, file, recipe, device)
        for path in sample_to_file(wish, overrides_of(short, overrides or ()), workspace.resolve()):
            typer.echo(str(path))


@app.command()
def gc(
    workspace: WorkspaceOption = HERE,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
) -> None:
    """Delete the work folders and features of earlier recipes; those of the active one stay, so that it can resume."""
    from flows.results import delete_work, old_work
    from flows.workspace import find_workspace, locked

    folder = find_workspace(workspace)
    with locked(folder):
        found = old_work(folder)
        for item in found:
            typer.echo(f"{item.bytes / 1e6:9.1f} MB  {item.folder}")
        if not dry_run:
            delete_work(found)
    typer.echo(f"{sum(item.bytes for item in found) / 1e6:.1f} MB {'would be ' if dry_run else ''}freed")


def _show(table: list[list[str]], plain: object, as_json: bool) -> None:
    if as_json:
        import json

        typer.echo(json.dumps(plain, indent=1))
        return
    from flows.tables import print_table

    print_table(table)


def main() -> None:
    """Entry point: every failure ends in one line and exit code 1, or 2 if what was asked for makes no sense."""
    from flows.errors import DEBUG_VARIABLE, error_line

    if "--debug" in sys.argv:
        sys.argv.remove("--debug")
        os.environ[DEBUG_VARIABLE] = "1"
    exit_on_sigterm()
    try:
        app()
    except SystemExit as stop:
        if stop.code in STOPPED:
            typer.echo(STOPPED[stop.code], err=True)
        raise
    except Exception as error:
        typer.echo(f"ERROR: {error_line(error)}", err=True)
        sys.exit(2 if type(error).__name__ in ("ConfigError", "ShardError", "SigningError") else 1)


if __name__ == "__main__":
    main()
