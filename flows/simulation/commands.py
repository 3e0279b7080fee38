"""`syncd simulate`: what the pipeline costs at scale, with stages that only sleep."""

from pathlib import Path
from typing import Annotated

import typer

from flows.options import JsonOption, RuntimeOption, SetOption, WorkersOption, runtime_of


def simulate(
    objects: Annotated[int, typer.Option(min=1, help="How many objects the dataset is to have.")] = 95_000,
    shard_size: Annotated[
        int | None, typer.Option(min=1, help="Keys per shard of every stage; default: those of the recipe.")
    ] = None,
    sleep: Annotated[float, typer.Option(min=0.0, help="Seconds that every shard pretends to work.")] = 0.0,
    share_done: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the shards that the resumed run finds done.")
    ] = 0.99,
    until: Annotated[str | None, typer.Option(help="Last stage to simulate.")] = None,
    recipe: Annotated[
        str, typer.Option("--recipe", "-r", help="Its shard sizes, sets and views are taken.")
    ] = "flux-rigid",
    overrides: SetOption = None,
    workspace: Annotated[
        Path, typer.Option("--workspace", "-w", help="Folder for the simulated run; must be empty or new.")
    ] = Path("runs/simulation"),
    runtime: RuntimeOption = None,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure planning, resuming, publishing and bookkeeping of so many objects; the stages sleep and write small tars.

    Engine, planner, receipts, statements and DVC are the real ones, and so are plans, records and summaries of the
    stages. Images are left out: what a byte of them costs to write, hash and read comes on top.
    """
    import json

    from flows.simulation.run import simulate as run_simulation
    from flows.simulation.table import promise_table, stage_table
    from flows.simulation.world import World, chosen_stages, recipe_of
    from flows.tables import print_table

    stages = chosen_stages(until)
    sizes = [f"{stage}.shard_size={shard_size}" for stage in stages if shard_size and stage not in ("train", "report")]
    chosen = recipe_of(recipe, objects, (*(overrides or ()), *sizes))
    world = World(objects=objects, sleep_s=sleep)
    quiet = (lambda line: None) if as_json else (lambda line: typer.echo(line, err=True))
    found = run_simulation(workspace.resolve(), world, chosen, runtime_of(runtime, workers), share_done, stages, quiet)
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=1))
        return
    print_table(stage_table(found))
    print_table(promise_table(found))
