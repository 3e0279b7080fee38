"""`syncd ablate`: what a command needs is imported when it runs."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from flows.options import RuntimeOption, SetOption, WorkersOption, runtime_of

if TYPE_CHECKING:
    from flows.ablation.run import RunStage

ablate = typer.Typer(help="What each part of the method is worth.", no_args_is_help=True)

RecipeOption = Annotated[str, typer.Option("--recipe", "-r", help="Name in configs/recipes, or path.")]
RowsOption = Annotated[list[str] | None, typer.Option(help="Group or row of configs/ablations.yaml; repeat.")]
SeedsOption = Annotated[list[int] | None, typer.Option(help="Repeat for several; default 0, 1, 2.")]
ObjectsOption = Annotated[int | None, typer.Option(min=2, help="Of each seed; default: assets.count.")]
FolderOption = Annotated[Path, typer.Option("--workspace", "-w", help="Folder for the runs and the tables.")]
SEEDS = [0, 1, 2]
Result = TypeVar("Result")


@ablate.command(name="data")
def ablate_data(
    recipe: RecipeOption = "miniature",
    overrides: SetOption = None,
    rows: RowsOption = None,
    seeds: SeedsOption = None,
    objects: ObjectsOption = None,
    workspace: FolderOption = Path("runs/ablation"),
    runtime: RuntimeOption = None,
    workers: WorkersOption = None,
) -> None:
    """Rows of the data pipeline against each other (thesis Table 5.5): table, chart, and a line for every run."""
    from flows.ablation.data import ablate, write_tables
    from flows.worker import resolve_device

    changed, device = _overrides(overrides, objects), resolve_device(runtime_of(runtime, workers).device)
    runs = _by_flows(
        "ablate data",
        workspace,
        runtime,
        workers,
        lambda run: ablate(recipe, changed, rows or ["paper"], seeds or SEEDS, workspace, run, typer.echo, device),
    )
    _print(write_tables(runs, workspace, f"Ablation of the data pipeline: {recipe}"))


@ablate.command(name="model")
def ablate_model(
    recipe: RecipeOption = "miniature-unet",
    overrides: SetOption = None,
    rows: RowsOption = None,
    seeds: SeedsOption = None,
    objects: ObjectsOption = None,
    workspace: FolderOption = Path("runs/ablation-model"),
    runtime: RuntimeOption = None,
    workers: WorkersOption = None,
) -> None:
    """Rows of training and inference against each other (thesis Table 5.4, sweeps): tables, charts, and a line for
    every run."""
    from flows.ablation.model import ablate, write_tables

    changed, wanted = _overrides(overrides, objects), rows or ["paper"]
    runs = _by_flows(
        "ablate model",
        workspace,
        runtime,
        workers,
        lambda run: ablate(recipe, changed, wanted, seeds or SEEDS, workspace, run, typer.echo),
    )
    _print(write_tables(runs, wanted, workspace, f"Ablation of the customization model: {recipe}"))


def _overrides(overrides: list[str] | None, objects: int | None) -> tuple[str, ...]:
    return (*(overrides or ()), *([f"assets.count={objects}"] if objects else []))


def _by_flows(
    name: str, workspace: Path, runtime: str | None, workers: int | None, body: "Callable[[RunStage], Result]"
) -> Result:
    import uuid

    from flows.workspace import run_environment

    workspace.mkdir(parents=True, exist_ok=True)
    how = runtime_of(runtime, workers)
    os.environ.update(run_environment(workspace.resolve(), how, run_id=str(uuid.uuid4())))
    from flows.ablation.run import by_flows

    return by_flows(name, how, body)


def _print(paths: list[Path]) -> None:
    typer.echo("\n" + paths[1].read_text(encoding="utf-8"))
    for path in paths:
        typer.echo(path)
