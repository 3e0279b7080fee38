"""A dataset as rows of the audit store, read from the finished stages behind it."""

import hashlib
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from data.audit.parts import PartWriter, Row, building
from data.ids import sample_id_of
from data.outside_text import parse_json
from data.shards import ShardEntry, ShardError, ShardIndex, load_index, read_shard, verify_file
from tasks.auditing.chain import DATASET_STAGE, Link, model_rows, sources_of, statement_row

REJECTED = "rejected.jsonl"
WITH_SETS = ("render", "generate", "score", "select")
"""Stages that can fail a set, in their order."""
SCORES = (
    *("quality", "identity", "identity_masked", "clip_image", "clip_text"),
    *("background", "saturation", "clipped", "area", "cut_off"),
)


def write_dataset(workspace: Path, chain: Sequence[Link], store: Path) -> None:
    """Put the published dataset of a workspace into the store. ShardError if a file is not what its index says."""
    artifacts, shard = workspace / "artifacts", chain[-1]
    indexes = {link.stage: load_index(artifacts / link.stage) for link in chain}
    with building(store, "datasets", str(shard.index_sha256)) as part:
        part.add("statements", [statement_row(link) for link in chain])
        part.add("models", model_rows(chain))
        part.add("assets", _assets(artifacts / "assets", indexes["assets"]))
        part.add("prompts", _prompts(artifacts / "prompts", indexes["prompts"]))
        part.add("decisions", _decisions(artifacts, indexes))
        published = _write_published(part, artifacts / DATASET_STAGE, indexes[DATASET_STAGE])
        part.add("sets", published.values())
        part.add("sets", _unpublished(artifacts / "select", indexes, published))
        part.add("datasets", [_facts(shard, indexes[DATASET_STAGE], list(published.values()))])
        part.finish(sources_of(chain))


def _facts(shard: Link, index: ShardIndex, sets: list[dict[str, Any]]) -> Row:
    recipe, stated = shard.parameters["configs/recipe.yaml"], statement_row(shard)
    return {
        **{name: stated[name] for name in ("signature", "statement", "finished", "commit", "dirty")},
        "recipe": recipe["name"],
        "seed": recipe["seed"],
        "objects": len({row["object_id"] for row in sets}),
        "sets": len(sets),
        "samples": sum(row["images"] for row in sets),
        "shards": len(index.shards),
        "bytes": sum(entry.bytes for entry in index.shards),
    }


def json_records(directory: Path, entry: ShardEntry) -> Iterator[tuple[str, dict[str, Any]]]:
    """Key and record of every sample of a shard, without holding its other members in memory.

    ShardError if the tar is not the bytes that its index names, or if its keys are not those of the index.
    """
    verify_file(directory / entry.name, entry.bytes, entry.sha256)
    keys = []
    try:
        with tarfile.open(directory / entry.name) as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                if extension == "json":
                    keys.append(key)
                    yield key, parse_json(tar.extractfile(member).read())
    except (OSError, tarfile.TarError, ValueError) as error:
        raise ShardError(f"{directory / entry.name}: cannot be read ({error}); syncd audit verify says more") from error
    if keys != entry.keys:
        raise ShardError(f"{directory / entry.name}: its samples are not the keys that index.json lists")


def _records(directory: Path, index: ShardIndex) -> Iterator[tuple[str, dict[str, Any]]]:
    for entry in index.shards:
        for sample in read_shard(directory, entry):
            yield sample.key, sample.record


def _assets(directory: Path, index: ShardIndex) -> Iterator[Row]:
    same = ("split", "category", "caption", "licence", "source", "uri", "source_sha256", "mesh_sha256", "outcome")
    for entry in index.shards:
        for key, record in json_records(directory, entry):
            yield {"object_id": key, "fate": "usable", **{name: record[name] for name in same}}
    for failure in index.failed:
        yield {"object_id": failure.key, "fate": "failed", "reason": failure.reason, "detail": failure.detail}
    for asset in _rejected(directory, index):
        why = {name: asset[name] for name in ("reason", "detail", "uri")}
        yield {"object_id": asset["id"], "fate": "rejected", **why}


def _rejected(directory: Path, index: ShardIndex) -> Iterator[dict[str, Any]]:
    """What the source or the licence allow-list refused."""
    entry = {own.name: own for own in index.files}[REJECTED]
    verify_file(directory / REJECTED, entry.bytes, entry.sha256)
    yield from map(parse_json, (directory / REJECTED).read_bytes().splitlines())


def _prompts(directory: Path, index: ShardIndex) -> Iterator[Row]:
    for key, record in _records(directory, index):
        who = {"object_id": key, "writer": record["writer"]}
        for place, prompt in enumerate(record["prompts"]):
            own = {name: prompt[name] for name in ("text", "detailed", "kind")}
            yield {**who, "place": place, "accepted": True, **own}
        for place, prompt in enumerate(record["rejected"]):
            yield {**who, "place": place, "accepted": False, "text": prompt["text"], "reason": prompt["reason"]}


def _decisions(artifacts: Path, indexes: dict[str, ShardIndex]) -> Iterator[Row]:
    """Scores and decisions side by side; both stages hold the same sets in the same order."""
    both = zip(
        _records(artifacts / "score", indexes["score"]), _records(artifacts / "select", indexes["select"]), strict=True
    )
    for (key, scored), (_, decided) in both:
        for place, (scores, image) in enumerate(zip(scored["images"], decided["images"], strict=True)):
            first = image["reasons"][0] if image["reasons"] else {"code": None, "value": None, "threshold": None}
            yield {
                "sample_id": sample_id_of(key, place),
                "set_id": key,
                "image_index": place,
                "kept": image["kept"],
                "reason": first["code"],
                "value": first["value"],
                "threshold": first["threshold"],
                **{name: scores[name] for name in SCORES},
            }


def _write_published(part: PartWriter, directory: Path, index: ShardIndex) -> dict[str, dict[str, Any]]:
    """Writes the table of samples; returns the rows of the published sets by id."""
    sets: dict[str, dict[str, Any]] = {}
    for entry in index.shards:
        for sample in read_shard(directory, entry):
            record = sample.record
            part.add("samples", [_sample(record, image, sample.files) for image in record["samples"]])
            sets[sample.key] = {
                "set_id": sample.key,
                "object_id": record["object_id"],
                "fate": "published",
                "images": len(record["samples"]),
                **{name: record[name] for name in ("category", "caption", "model")},
                "shard": entry.name,
                "shard_sha256": entry.sha256,
            }
    return sets


def _sample(record: dict[str, Any], image: dict[str, Any], files: dict[str, bytes]) -> Row:
    return {
        "sample_id": image["sample_id"],
        "set_id": record["set_id"],
        "object_id": record["object_id"],
        "image_index": image["index"],
        **{name: image[name] for name in ("prompt", "prompt_kind", "prompt_sent", "seed")},
        "png_sha256": hashlib.sha256(files[f"{image['index']}.png"]).hexdigest(),
        "mask_sha256": hashlib.sha256(files[f"{image['index']}.mask.png"]).hexdigest(),
    }


def _unpublished(select: Path, indexes: dict[str, ShardIndex], published: Iterable[str]) -> Iterator[Row]:
    """Every other set that was planned, once: what failed in a stage is passed on, and fails in those after it too."""
    told = set(published)
    for row in _fates(select, indexes):
        if row["set_id"] not in told:
            told.add(row["set_id"])
            yield row


def _fates(select: Path, indexes: dict[str, ShardIndex]) -> Iterator[dict[str, Any]]:
    """What kept sets from being published, in the order of the stages: failed, held out, dropped, not chosen."""
    for stage in WITH_SETS:
        for failure in indexes[stage].failed:
            yield _set(failure.key, "failed", stage, failure.reason)
    for key in indexes["render"].summary["held_out_sets"]:
        yield _set(key, "held out", "generate", "held_out")
    for key, decision in _records(select, indexes["select"]):
        if decision["kept"]:
            yield _set(key, "not chosen", DATASET_STAGE, "not_chosen")
        else:
            row = _set(key, "dropped", "select", decision["reasons"][0]["code"])
            yield {**row, "duplicate_of": decision["duplicate_of"]}


def _set(key: str, fate: str, stage: str, reason: str) -> dict[str, Any]:
    return {
        "set_id": key,
        "object_id": key.rpartition("-s")[0],
        "fate": fate,
        "stage": stage,
        "reason": reason,
        "images": 0,
    }
