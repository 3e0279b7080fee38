"""`syncd study`: what a command needs is imported when it runs."""

from pathlib import Path
from typing import Annotated

import typer

from flows.options import HERE, WorkspaceOption

study = typer.Typer(help="Ask people which images they prefer.", no_args_is_help=True)


@study.command(name="make")
def study_make(
    row: Annotated[str, typer.Option(help="Row of the evaluation whose preference is asked for, for example ours-3.")],
    against: Annotated[str, typer.Option(help="Row that it is compared with.")],
    out: Annotated[Path, typer.Option(help="Folder for the page and its key; keep the key to yourself.")] = Path(
        "study"
    ),
    questions: Annotated[int, typer.Option(min=0, help="How many, 0 for one of every object and prompt.")] = 50,
    references: Annotated[int, typer.Option(min=1, help="Shown beside each question.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Draws questions, sides and order.")] = 0,
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "Which image is better?",
    workspace: WorkspaceOption = HERE,
) -> None:
    """Write a page with practice and pairwise questions about two rows of the evaluation."""
    from flows.study import make_study

    for path in make_study(workspace.resolve(), (row, against), out, questions, references, seed, title):
        typer.echo(path)


@study.command(name="analyse")
def study_analyse(
    answers: Annotated[list[Path], typer.Argument(help="Files that raters saved.")],
    key: Annotated[Path, typer.Option(help="Key of the study.")] = Path("study/key.json"),
) -> None:
    """Preference with standard error, and the raters that do not count."""
    from flows.study import analyse_study

    typer.echo(analyse_study(key, answers))
