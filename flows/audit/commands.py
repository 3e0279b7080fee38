"""`syncd audit`: what a command needs is imported when it runs."""

from pathlib import Path
from typing import Annotated

import typer

from flows.options import HERE, JsonOption, RuntimeOption, runtime_of

audit = typer.Typer(
    help="From a checkpoint to everything behind it, back again, and whether all of it holds.", no_args_is_help=True
)
PublicKeyOption = Annotated[
    list[Path] | None,
    typer.Option(help="Public key in PEM that every statement must be signed by; repeat for keys that changed."),
]
WorkspaceOption = Annotated[Path, typer.Option("--workspace", "-w", help="Folder that the runs were made in.")]


@audit.command()
def trace(
    target: Annotated[
        str,
        typer.Argument(
            help="LoRA file, train folder, PNG (of the dataset, or made by syncd sample), set or sample id, or the "
            "digest of a checkpoint or dataset, which may be shortened."
        ),
    ],
    public_key: PublicKeyOption = None,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """What is behind a checkpoint or an image: assets, prompts, licences, models, code, and who signed the statements.
    JSON lists every image."""
    from flows.audit.answers import print_trace, show
    from flows.audit.signed import tell_signatures
    from flows.audit.store import open_store, workspace_of
    from flows.audit.trace import trace

    folder = workspace_of(workspace)
    answer = trace(open_store(folder), target, everything=as_json)
    tell_signatures(answer, folder, public_key or ())
    show(answer, as_json, print_trace)


@audit.command()
def find(
    asset: Annotated[str | None, typer.Option(help="Object id, source uri, or sha256 of the source or mesh.")] = None,
    licence: Annotated[str | None, typer.Option("--license", help="SPDX identifier, for example CC-BY-4.0.")] = None,
    model: Annotated[str | None, typer.Option(help="NAME or NAME@REVISION, which may be shortened.")] = None,
    sample: Annotated[str | None, typer.Option(help="Id of one image.")] = None,
    prompt: Annotated[str | None, typer.Option(help="Part of a prompt.")] = None,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Where something went: sets, shards, datasets, and checkpoints with how often they used it, and when."""
    asked = {"asset": asset, "license": licence, "model": model, "sample": sample, "prompt": prompt}
    given = [(kind, value) for kind, value in asked.items() if value]
    if len(given) != 1:
        raise typer.BadParameter(f"give one of {', '.join(f'--{kind}' for kind in asked)}; {len(given)} are given")
    from flows.audit.answers import print_found, show
    from flows.audit.find import find
    from flows.audit.store import open_store, workspace_of

    show(find(open_store(workspace_of(workspace)), *given[0], everything=as_json), as_json, print_found)


@audit.command()
def sql(
    query: Annotated[str | None, typer.Argument(help="One SELECT in DuckDB's dialect.")] = None,
    tables: Annotated[bool, typer.Option("--tables", help="Print the tables and their columns.")] = False,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Ask the store in SQL. Queries only read, and only the store: no other file, no network."""
    from data.audit.tables import handbook

    if tables or query is None:
        typer.echo(handbook())
        return
    from flows.audit.answers import show, table
    from flows.audit.store import open_store, workspace_of

    names, rows = open_store(workspace_of(workspace)).ask(query)
    plain = {"columns": names, "rows": [list(row) for row in rows]}
    show(plain, as_json, lambda answer: table(f"{len(rows)} rows", names, rows, most=None))


@audit.command()
def diff(
    first: Annotated[str, typer.Argument(help="Digest of a dataset, which may be shortened, or a workspace.")],
    second: Annotated[str, typer.Argument(help="The same, of the later one.")],
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """What changed between two versions of a dataset and why: recipe, models, code, assets, sets."""
    from flows.audit.answers import print_diff, show
    from flows.audit.diff import diff
    from flows.audit.store import open_versions

    store, digests = open_versions(workspace, first, second)
    show(diff(store, *digests, everything=as_json), as_json, print_diff)


@audit.command()
def verify(
    workspace: WorkspaceOption = HERE,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Also every record and image from those before it, and the ledger from its seed."),
    ] = False,
    public_key: PublicKeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Recompute every digest and follow the chain of statements from assets to report; check models, checkpoint,
    signatures and the audit store."""
    from dataclasses import asdict

    from flows.audit.answers import print_verdict, show
    from flows.audit.verify import verify

    def tell(line: str) -> None:
        if deep:
            typer.echo(f"checking {line}", err=True)

    verdict = verify(workspace, deep, tell, public_key or ())
    show({"holds": not verdict.problems, **asdict(verdict)}, as_json, print_verdict)
    if verdict.problems:
        raise typer.Exit(1)


@audit.command()
def replay(
    count: Annotated[int, typer.Argument(min=1, help="Images to draw; the kept ones of their sets come with them.")],
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
    tolerance: Annotated[
        int,
        typer.Option(min=0, max=255, help="Largest difference of a value, of 255, on other hardware; 0: equal bytes."),
    ] = 0,
    workspace: WorkspaceOption = HERE,
    runtime: RuntimeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Generate random images of the dataset once more and compare them with the published ones."""
    import os
    from dataclasses import asdict

    from flows.workspace import run_environment

    how = runtime_of(runtime, None)
    os.environ.update(run_environment(workspace.resolve(), how, run_id=""))

    from flows.audit.answers import columns, plain, show
    from flows.audit.replay import differs, replay

    rows = replay(workspace, count, seed, how, lambda line: typer.echo(line, err=True))
    different = [row for row in rows if differs(row, tolerance)]
    answer = {
        "images": [asdict(row) for row in rows],
        "drawn": count,
        "equal_bytes": sum(row.same_bytes for row in rows),
        "max_difference": max((row.max_difference for row in rows if row.max_difference is not None), default=None),
        "tolerance": tolerance,
        "different": [row.sample_id for row in different],
    }
    names = ("sample_id", "drawn", "same_bytes", "max_difference", "differing", "mask_equal", "problem")
    show(answer, as_json, lambda answer: columns("replayed images", answer["images"], names))
    allowed = f"within a tolerance of {tolerance} of 255, " if tolerance else ""
    typer.echo(
        f"{count} images drawn, {len(rows)} compared with their sets: {answer['equal_bytes']} equal to the byte, "
        f"{allowed}largest difference {answer['max_difference']} of 255",
        err=as_json,
    )
    if different:
        typer.echo(f"{len(different)} differ: {plain(answer['different'][:5])}", err=True)
        raise typer.Exit(1)


@audit.command()
def report(
    out: Annotated[Path | None, typer.Option(help="Folder to write to; default: artifacts/audit/report.")] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Verify as audit verify --deep does.")] = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Write what an auditor needs as one HTML page and as JSON: totals, chain, licences, models, uses, verification."""
    from flows.audit.report import write_report

    page, data, problems = write_report(workspace, out, deep)
    typer.echo(page)
    typer.echo(data)
    if problems:
        typer.echo(f"{problems} problems, which the page names", err=True)
        raise typer.Exit(1)
