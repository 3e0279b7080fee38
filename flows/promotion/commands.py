"""`syncd models` and `syncd retrain`: what a command needs is imported when it runs."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.options import HERE, RecipeOption, RuntimeOption, SetOption, WorkersOption, WorkspaceOption, runtime_of

if TYPE_CHECKING:
    from flows.promotion.store import Store

models = typer.Typer(help="Checkpoints that were judged, and which one is current.", no_args_is_help=True)


def retrain(
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    workspace: WorkspaceOption = HERE,
    runtime: RuntimeOption = None,
    workers: WorkersOption = None,
) -> None:
    """Train and evaluate if the dataset or the recipe of training has changed, and promote what does not regress."""
    import uuid

    from flows.workspace import choose_recipe, find_workspace, locked, prepare_workspace, run_environment

    how, folder = runtime_of(runtime, workers), find_workspace(workspace)
    with locked(folder):
        if recipe is not None or overrides:
            prepare_workspace(folder, choose_recipe(folder, recipe, tuple(overrides or ())))
        os.environ.update(run_environment(folder, how, run_id=str(uuid.uuid4())))
        from flows.retrain import retrain as flow

        flow(workspace=str(folder))


@models.command(name="list")
def list_models(workspace: WorkspaceOption = HERE) -> None:
    """Every judged model, the current one first, with the latest word about it."""
    from flows.tables import print_table

    store = _store(workspace)
    current = store.current()
    known = sorted(store.models(), key=lambda model: (current is None or model.digest != current.digest, model.digest))
    rows = [["model", "state", "dataset", "steps", "since", "reason"]]
    for model in known:
        word = store.last_word(model.digest)
        state = "current" if current and model.digest == current.digest else "" if word is None else "not current"
        said = ["", ""] if word is None else [word.time, f"{word.event.replace('_', ' ')}: {word.reason}"]
        rows.append([model.short, state, model.record.dataset_sha256[:16], str(model.record.step), *said])
    print_table(rows)
    typer.echo(store.folder)


@models.command()
def promote(
    digest: Annotated[str, typer.Argument(help="Beginning of the model's sha256.")],
    reason: Annotated[
        str | None, typer.Option(help="Decide by hand, for this reason; without one the rule decides.")
    ] = None,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Make a model current: if it does not regress against the current one and the best before it, or for a
    reason that you give."""
    from configs.errors import ConfigError
    from flows.promotion.store import Store
    from flows.retrain import Examination, examine
    from flows.workspace import locked
    from models.evaluation.promotion import Verdict

    with locked(workspace):
        store: Store = _store(workspace)
        model, current = store.find(digest), store.current()
        if current is not None and current.digest == model.digest:
            raise ConfigError(f"model {model.short} is current")
        found = Examination(Verdict(True, f"by hand: {reason}")) if reason else examine(store, model)
        found.decide(store, model)
    typer.echo(f"{model.short}: {found.event}: {found.verdict.reason}")
    if not found.verdict.promoted:
        raise typer.Exit(1)


@models.command()
def rollback(
    to: Annotated[str | None, typer.Option(help="Model to go back to; default: the one before the current.")] = None,
    reason: Annotated[str, typer.Option(help="Kept in the history.")] = "by hand",
    workspace: WorkspaceOption = HERE,
) -> None:
    """Make an earlier model current again, at once and without a comparison. `retrain` does not promote the one that
    was rolled back again."""
    from configs.errors import ConfigError
    from flows.workspace import locked

    with locked(workspace):
        store = _store(workspace)
        target, current = to or store.earlier(), store.current()
        if target is None or current is None:
            raise ConfigError(f"{store.folder}: no model was current before; syncd models list")
        model = store.find(target)
        if model.digest == current.digest:
            raise ConfigError(f"model {model.short} is current")
        store.decide("rolled_back", model, reason)
    typer.echo(f"{model.short} is current, {current.short} no longer")


def _store(workspace: Path) -> "Store":
    from flows.promotion.store import Store
    from flows.workspace import find_workspace

    return Store(find_workspace(workspace))
