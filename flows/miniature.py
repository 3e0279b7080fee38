"""`syncd miniature`: what a command needs is imported when it runs."""

from pathlib import Path
from typing import Annotated

import typer

miniature = typer.Typer(help="The embedded miniature.", no_args_is_help=True)


@miniature.command(name="train")
def miniature_train(
    out: Annotated[Path | None, typer.Option(help="Folder for the weights; default: where the recipes look.")] = None,
    work: Annotated[Path, typer.Option(help="Views, checkpoints; a killed run goes on here.")] = Path(
        "artifacts/.miniature"
    ),
    seed: Annotated[int, typer.Option(min=0)] = 0,
    scale: Annotated[float, typer.Option(help="Steps and objects, as a share of the full training.")] = 1.0,
    workers: Annotated[int, typer.Option(min=1, help="Processes that render.")] = 2,
    keep: Annotated[
        list[str] | None, typer.Option(help="Net that is not trained but taken from --keep-of; repeat.")
    ] = None,
    keep_of: Annotated[
        Path | None, typer.Option(help="Folder of such weights; default: where the recipes look.")
    ] = None,
) -> None:
    """Make the miniature's weights: render its world, train every net, write what it cost and reached."""
    import logging

    from configs.errors import ConfigError
    from models.miniature.train import Kept, train_all
    from models.registry import miniature_weights

    if scale <= 0:
        raise ConfigError(f"--scale is {scale}; allowed: above 0")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folder = (out or miniature_weights()).resolve()
    try:
        kept = Kept((keep_of or miniature_weights()).resolve(), tuple(keep or ()))
    except ValueError as error:
        raise ConfigError(f"--keep: {error}") from error
    train_all(folder, work.resolve(), seed, steps_scale=scale, workers=workers, kept=kept)
    typer.echo(f"{folder}: finished, see RESULTS.md; accept these weights with: python -m models.registry pin")
