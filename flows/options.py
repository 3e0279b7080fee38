"""Options that several commands of `syncd` have."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from configs.schema import Runtime

WorkspaceOption = Annotated[Path, typer.Option("--workspace", "-w", help="Folder to work in; made if it is new.")]
RuntimeOption = Annotated[str | None, typer.Option("--runtime", help="How to run: name in configs/runtime, or path.")]
WorkersOption = Annotated[int | None, typer.Option("--workers", "-n", min=1, help="Workers, instead of the runtime's.")]
RecipeOption = Annotated[
    str | None, typer.Option("--recipe", "-r", help="Name in configs/recipes, or path; default: the active one.")
]
SetOption = Annotated[list[str] | None, typer.Option("--set", "-s", help="section.key=value, on top of the recipe.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
HERE = Path(".")


def runtime_of(name: str | None, workers: int | None) -> "Runtime":
    """The runtime of that name, with another number of workers if one is given."""
    from configs.load import load_runtime

    chosen = load_runtime(name)
    return chosen.model_copy(update={"workers": workers}) if workers else chosen
