"""`syncd revoke`: what it needs is imported when it runs."""

from typing import Annotated

import typer

from flows.options import HERE, RuntimeOption, WorkersOption, WorkspaceOption, runtime_of


def revoke(
    asset: Annotated[str, typer.Option(help="Object to take down: its id, address, or sha256.")],
    reason: Annotated[str, typer.Option(help="Why; kept with the tombstone.")],
    copies: Annotated[
        bool | None,
        typer.Option(
            "--copies/--keep-copies",
            help="Whether its file goes under every other id too, now and later; must be said if the dataset has some.",
            show_default="--copies",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what holds it.")] = False,
    purge: Annotated[
        bool, typer.Option(help="Also delete earlier outputs from this disk: work folders, and DVC's cache.")
    ] = False,
    workspace: WorkspaceOption = HERE,
    runtime: RuntimeOption = None,
    workers: WorkersOption = None,
) -> None:
    """Take an object out of the dataset: list what holds it, make those shards again, leave a tombstone."""
    from configs.errors import ConfigError
    from flows.pipeline import run_pipeline
    from flows.tables import print_table
    from flows.takedown.revoke import (
        KEPT,
        LAST_STAGE,
        affected_table,
        bury,
        find_affected,
        purge_earlier,
        tombstone_of,
        with_copies,
        without_work,
    )
    from flows.workspace import find_workspace, locked

    folder, how = find_workspace(workspace), runtime_of(runtime, workers)
    with locked(folder):
        if tombstone_of(folder, asset) is not None:
            typer.echo(f"{asset} is revoked; finishing what is left of its take-down")
        else:
            own, *others = with_copies(folder, asset)
            found = [find_affected(folder, one) for one in (own, *(others if copies else ()))]
            print_table(affected_table(found))
            for stage in without_work(folder):
                typer.echo(f"{stage}: its work folder is gone, so that all of its shards are made again", err=True)
            if others and copies is None:
                names = ", ".join(one.object_id for one in others)
                told = (
                    f"{own.object_id}: the same file or mesh is in the dataset as {names}; take these down as well: "
                    "--copies; or leave them: --keep-copies"
                )
                if not dry_run:
                    raise ConfigError(told)
                typer.echo(told, err=True)
            if dry_run:
                return
            bury(folder, found, reason, with_files=copies is not False)
        run_pipeline(folder, LAST_STAGE, how)
        if purge:
            freed = purge_earlier(folder)
            typer.echo(f"{freed / 1e6:.1f} MB of earlier outputs deleted, and the report; syncd run makes that again")
        else:
            typer.echo("earlier outputs are still in work folders, DVC's cache and the report; delete them: --purge")
        if how.store:
            typer.echo(f"earlier outputs in {how.store} stay there; delete the folders of other signatures")
    typer.echo(KEPT)
