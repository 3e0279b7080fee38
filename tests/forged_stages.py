"""Forgeries that hold together: a changed file, and every digest and signature after it made to fit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from data.audit.parts import PartFile, read_manifest
from data.ids import canonical_json
from data.provenance import input_indexes, signature_of, statement_path
from data.shards import Sample, ShardWriter, load_index, read_all, sha256_file, write_atomic
from flows.graph import load_graph


def change_samples(workspace: Path, stage: str, change: Callable[[Sample], Sample]) -> None:
    """Write every tar of a finished stage again with `change` on each sample; digests are left as they were."""
    folder = workspace / "artifacts" / stage
    index = load_index(folder)
    for number, entry in enumerate(index.shards):
        samples = list(read_all(folder, index.model_copy(update={"shards": [entry]})))
        with ShardWriter(workspace / "forged", stage, "f" * 64, number) as out:
            for sample in map(change, samples):
                out.add(sample.key, sample.record, sample.files)
            out.finish()
        replace(folder / entry.name, (workspace / "forged" / f"{number:06d}.tar").read_bytes())


def replace(path: Path, data: bytes) -> None:
    """Not in place: the work folder holds hard links."""
    path.unlink()
    write_atomic(path, data)


def reseal(workspace: Path, *stages: str) -> None:
    """Make index, statement and signature of these stages, which must be in their order, fit the files that are there,
    and the statements fit each other."""
    for name in stages:
        folder, path = workspace / "artifacts" / name, statement_path(workspace, name)
        index, statement = json.loads((folder / "index.json").read_bytes()), json.loads(path.read_bytes())
        build = statement["predicate"]["buildDefinition"]
        for item in build["resolvedDependencies"]:
            if item["name"].startswith("artifacts/"):
                item["digest"]["sha256"] = sha256_file(workspace / item["name"])
        signature = signature_of(name, build["externalParameters"]["params"], input_indexes(statement))
        build["externalParameters"]["signature"] = index["signature"] = signature
        for entry in (*index["shards"], *index["files"]):
            entry |= {"sha256": sha256_file(folder / entry["name"]), "bytes": (folder / entry["name"]).stat().st_size}
        pretty = json.dumps(index, sort_keys=True, indent=1, ensure_ascii=False)
        replace(folder / "index.json", pretty.encode() + b"\n")
        for subject in statement["subject"]:
            subject["digest"]["sha256"] = sha256_file(workspace / subject["name"])
        replace(path, canonical_json(statement) + b"\n")


def reseal_from(workspace: Path, stage: str, until: str) -> None:
    """The stage and all that follow from it, as far as `until`."""
    graph = load_graph(workspace)
    later = {stage, *graph.descendants(stage)}
    reseal(workspace, *(name for name in graph.until(until) if name in later))


def changed_record(sample: Sample, **fields: Any) -> Sample:
    return Sample(sample.key, {**sample.record, **fields}, sample.files)


def change_table(part: Path, name: str, column: str, change: Callable[[list[Any]], list[Any]]) -> None:
    """Write a table of the audit store with another column, and a manifest that fits it."""
    path = part / f"{name}.parquet"
    table = parquet.read_table(path)
    place = table.schema.get_field_index(column)
    field = table.schema.field(place)
    changed = table.set_column(place, field, pa.array(change(table[column].to_pylist()), field.type))
    parquet.write_table(changed, path, compression="zstd")
    fit_manifest(part)


def fit_manifest(part: Path, rows: int | None = None) -> None:
    """Make the manifest of a part fit the files that are there; `rows`: what it says of those that have changed."""
    manifest, files = read_manifest(part), {}
    for name, entry in manifest.files.items():
        path, sha256 = part / name, sha256_file(part / name)
        if sha256 == entry.sha256:
            files[name] = entry
            continue
        counted = rows if rows is not None else parquet.read_metadata(path).num_rows
        files[name] = PartFile(bytes=path.stat().st_size, sha256=sha256, rows=counted)
    (part / "manifest.json").write_text(manifest.model_copy(update={"files": files}).model_dump_json())
