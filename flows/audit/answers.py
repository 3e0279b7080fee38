"""Answers of the audit as tables for a terminal. Texts out of a dataset are shown as they are, never interpreted."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import typer

from data.outside_text import on_one_line
from flows.tables import print_table

SHOWN_ROWS = 20
Answer = dict[str, Any]


def show(answer: Answer, as_json: bool, print_tables: Any) -> None:
    """The whole answer as JSON, in ASCII since that may be a terminal too, or its tables."""
    if as_json:
        typer.echo(json.dumps(answer, indent=1, default=str))
    else:
        print_tables(answer)


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[Any]], most: int | None = SHOWN_ROWS) -> None:
    """A titled table of the first rows, and how many more there are; nothing if there are none."""
    listed = list(rows)
    if not listed:
        return
    typer.echo(plain(title))
    print_table([list(head), *([plain(value) for value in row] for row in listed[:most])])
    if most is not None and len(listed) > most:
        typer.echo(f"... and {len(listed) - most} more: --json\n")


def columns(title: str, rows: Sequence[Answer], names: Sequence[str]) -> None:
    """The same of rows that are dictionaries; `name:8` shows eight characters of a digest."""
    keys = [name.partition(":") for name in names]
    table(
        title, [label(key) for key, _, _ in keys], ([short(row[key], width) for key, _, width in keys] for row in rows)
    )


def facts(title: str, rows: Iterable[tuple[str, Any]]) -> None:
    table(title, ("", ""), [(name, value) for name, value in rows if value not in (None, "")])


def label(key: str) -> str:
    return key.removesuffix("_sha256").replace("_", " ")


def short(value: Any, width: str) -> Any:
    return value[: int(width)] if width and isinstance(value, str) else value


def plain(value: Any) -> str:
    """Text of a value: control characters are shown, not sent to the terminal."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(map(plain, value))
    if isinstance(value, dict):
        value = json.dumps(value, ensure_ascii=False)
    return on_one_line(str(value))


def print_trace(answer: Answer) -> None:
    if answer["kind"] in ("sample", "set") or "found" in answer:
        if "matched_by" in answer:
            by, sha256 = answer["matched_by"], answer["sha256"]
            typer.echo(f"{plain(answer['file'])}: its {by} digest {sha256} is of a published image\n")
        for entry in answer["found"]:
            _print_set(entry)
        return
    if answer["kind"] == "image":
        made = answer["made"]
        names = ("prompt", "seed", "references_sha256", "checkpoint_sha256", "checkpoint_step", "base_model")
        title = f"{answer['file']}: says that it was made by syncd sample; not checked"
        facts(title, [(label(name), made[name]) for name in names])
        typer.echo("what is behind the checkpoint that it names:\n")
        print_trace(answer["behind"])
        return
    if answer["kind"] == "checkpoint":
        _print_checkpoint(answer)
    if answer["dataset"] is None:
        typer.echo("the store does not hold its dataset: that was published in another workspace")
    else:
        _print_dataset(answer)
    if answer["kind"] == "dataset":
        columns(
            "checkpoints trained on it",
            answer["checkpoints"],
            ("checkpoint_sha256:16", "finished", "steps", "base_model"),
        )
    _print_chain(answer)


def _print_checkpoint(answer: Answer) -> None:
    own, uses = answer["checkpoint"], answer["uses"]
    facts(
        f"checkpoint {own['checkpoint_sha256']}",
        [
            ("published", own["finished"]),
            ("base model", f"{own['base_model']}@{own['base_revision']} ({own['base_licence']})"),
            ("adapter", f"LoRA of rank {own['lora_rank']}, references {own['reference_form']}"),
            ("steps", own["steps"]),
            ("dataset", own["dataset_sha256"]),
            ("images drawn as target", uses["as_target"]),
            ("images shown as reference", uses["as_reference"]),
            ("different images used", uses["samples"]),
            ("different sets used", uses["sets"]),
            ("shards read", uses["shards"]),
            ("text-image pairs drawn", uses["pairs"] or None),
            ("ledger", own["ledger_sha256"]),
        ],
    )
    columns("tars of text-image pairs", answer["pair_tars"], ("name", "pairs", "skipped", "tar_sha256"))


def _print_dataset(answer: Answer) -> None:
    own = answer["dataset"]
    facts(
        f"dataset {own['dataset_sha256']}",
        [
            *((name, own[name]) for name in ("finished", "recipe", "seed", "objects", "sets")),
            ("images", own["samples"]),
            ("shards", f"{own['shards']} ({own['bytes'] / 1e6:.1f} MB)"),
        ],
    )
    columns("licences of the assets", answer["licences"], ("licence", "source", "objects", "sets", "samples"))
    columns("models", answer["models"], ("stage", "role", "name", "revision:16", "licence", "verified"))
    columns("what became of everything", answer["fates"], ("what", "fate", "reason", "count"))


def _print_chain(answer: Answer) -> None:
    columns(
        "statements, each made from those before",
        answer["chain"],
        ("stage", "statement", "finished", "commit:12", "dirty", "signed"),
    )
    columns("code", answer["code"], ("commit", "dirty", "sources:16", "stages"))
    table(
        "environment",
        ("sha256", "python", "packages"),
        ((own["sha256"][:16], own["python"], _packages(own["packages"])) for own in answer["environments"]),
    )
    for problem in answer["chain_problems"]:
        typer.echo(plain(problem), err=True)


def _packages(packages: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in packages.items())


def _print_set(entry: Answer) -> None:
    own, asset, dataset = entry["set"], entry["asset"], entry["dataset"]
    facts(
        f"set {own['set_id']}",
        [
            ("fate", f"{own['fate']}: {own['reason']}" if own["reason"] else own["fate"]),
            ("object", own["object_id"]),
            ("asset", asset["uri"]),
            ("licence", asset["licence"]),
            ("mesh", asset["mesh_sha256"]),
            ("shard", own["shard"] and f"{own['shard']} {own['shard_sha256']}"),
            ("dataset", f"{dataset['dataset_sha256']} of {dataset['finished']}"),
        ],
    )
    columns("published images", entry["samples"], ("sample_id", "prompt", "seed", "png_sha256:16"))
    columns(
        "decisions", entry["decisions"], ("sample_id", "kept", "reason", "value", "threshold", "quality", "identity")
    )
    columns("models", entry["models"], ("stage", "role", "name", "revision:16", "licence"))
    columns(
        "checkpoints trained on this dataset, and how often they used it",
        entry["checkpoints"],
        ("checkpoint_sha256:16", "as_target", "as_reference", "first_step", "last_step"),
    )
    _print_chain(entry)


def print_found(answer: Answer) -> None:
    ((kind, value),) = answer["asked"].items()
    for name, shown in (
        ("assets", ("object_id", "fate", "reason", "split", "licence", "uri", "dataset_sha256:16")),
        ("models", ("stage", "role", "name", "revision:16", "licence", "dataset_sha256:16")),
        ("decisions", ("sample_id", "kept", "reason", "value", "threshold", "dataset_sha256:16")),
    ):
        columns(name, answer.get(name, []), shown)
    columns(
        f"datasets with {plain(kind)} {plain(value)}",
        answer["datasets"],
        ("dataset_sha256:16", "recipe", "finished", "objects", "sets", "samples", "shards"),
    )
    columns(
        "checkpoints trained on them, and how often they used it",
        answer["checkpoints"],
        (
            *("checkpoint_sha256:16", "dataset_sha256:16", "as_target", "as_reference", "samples"),
            *("steps", "first_step", "last_step"),
        ),
    )
    if not answer["datasets"]:
        typer.echo("in no published image")


def print_verdict(answer: Answer) -> None:
    """Of `syncd verify`: warnings and problems apart from the rest, so that they are seen when that is written away."""
    problems = answer["problems"]
    for line in [*(f"WARNING: {line}" for line in answer["warnings"]), *problems]:
        typer.echo(plain(line), err=True)
    if problems:
        lines = [
            f"signatures: {answer['signatures']}",
            *_earlier_line(answer),
            f"{len(problems)} problems; make a stage again with: syncd run",
        ]
    else:
        lines = [
            f"{len(answer['done'])} stages verified: {', '.join(answer['checked'])} agree",
            f"signatures: {answer['signatures']}",
            *_earlier_line(answer),
            *([f"last statement: {answer['last_statement']}"] if answer["last_statement"] else []),
            *([f"not run yet: {', '.join(answer['missing'])}"] if answer["missing"] else []),
        ]
    for line in lines:
        typer.echo(plain(line), err=bool(problems))


def _earlier_line(answer: Answer) -> list[str]:
    earlier = answer["earlier"]
    if not earlier:
        return []
    named = ", ".join(sha256[:16] for sha256 in earlier)
    return [
        f"earlier datasets in the audit store: {named}; of these only the statements are checked, nothing that is "
        "here vouches for their other tables"
    ]


def print_diff(answer: Answer) -> None:
    both = answer["datasets"]
    names = ("dataset_sha256", "finished", "recipe", "seed", "objects", "sets", "samples", "shards")
    table(
        "datasets",
        ("", "first", "second"),
        ((label(name), both["first"][name], both["second"][name]) for name in names),
    )
    columns("recipe, stage versions and input files", answer["recipe"], ("key", "first", "second", "stages"))
    columns("models", answer["models"], ("stage", "role", "first", "second"))
    columns("code", answer["code"], ("stage", "what", "first:12", "second:12"))
    columns("packages", answer["packages"], ("package", "first", "second"))
    counts = Counter(row["change"] for row in answer["assets"])
    table("objects", ("change", "count"), sorted(counts.items()))
    columns("which", answer["assets"], ("object_id", "change", "first", "second"))
    columns("published sets", answer["sets"], ("change", "reason", "count"))
    typer.echo(f"{answer['same_sets']} sets are in both and equal")
