"""Seconds that every question of `syncd audit` takes on a large dataset: in a new process, and in one that is warm.

    python -m benchmarks.audit [--samples 300000] [--steps 25000] [--batch 16] [--workspace DIR]

The store is written from made-up records by the writer that stages are taken in with; its statements form a real
chain. A second dataset, with some objects less and one recipe key changed, is there to be compared with. A new process
is `python -m flows.cli audit ...`: the start of Python, imports, opening the store, the answer, the table. A warm
question is one to a store that is open. Medians of wall time, which other work on the machine makes longer, and of the
processor time of all threads, which it does not.
"""

import argparse
import hashlib
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import markdown
from data.audit.parts import Row, building, part_folder, store_folder
from data.audit.query import Store
from data.ids import canonical_json, sample_id_of, set_id_of
from data.provenance import PREDICATE_TYPE, STATEMENT_TYPE, signature_of
from flows.audit.diff import diff
from flows.audit.find import find
from flows.audit.trace import trace
from tasks.auditing.chain import Link, link_of, model_rows, sources_of, statement_row

INPUTS = {
    "assets": (),
    "prompts": ("assets",),
    "render": ("assets",),
    "generate": ("render", "prompts"),
    "score": ("generate",),
    "select": ("score",),
    "shard": ("assets", "generate", "score", "select"),
    "train": ("shard",),
}
IMAGES = 3
SETS_PER_OBJECT = 2
SETS_PER_SHARD = 64
LICENCES = ("CC-BY-4.0", "CC-BY-4.0", "CC-BY-4.0", "CC0-1.0", "CC-BY-SA-4.0")
SECOND = 0.95
"""Share of the objects that the second dataset has."""


@dataclass(frozen=True)
class World:
    """A made-up dataset: every fourth planned set was dropped, every tenth object was refused."""

    objects: tuple[str, ...]
    steps: int
    batch: int
    min_quality: float

    @property
    def kept(self) -> list[str]:
        return [key for number, key in enumerate(self.planned) if number % 4]

    @property
    def planned(self) -> list[str]:
        return [set_id_of(name, number) for name in self.objects for number in range(SETS_PER_OBJECT)]


def world_of(samples: int, steps: int, batch: int) -> World:
    objects = round(samples / IMAGES / SETS_PER_OBJECT * 4 / 3)
    return World(tuple(hexadecimal("object", number)[:32] for number in range(objects)), steps, batch, 6.0)


def hexadecimal(*parts: object) -> str:
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()


def chain_for(world: World, until: str) -> list[Link]:
    links: dict[str, Link] = {}
    for stage, inputs in INPUTS.items():
        params = {"configs/recipe.yaml": {"seed": 0, "name": "made up"}, "configs/versions.yaml": {stage: 1}}
        if stage == "select":
            params["configs/recipe.yaml"]["select"] = {"min_quality": world.min_quality}
        index = hexadecimal("index", stage, len(world.objects), world.min_quality)
        dependencies: list[dict[str, Any]] = []
        for name in inputs:
            for path, digest in (
                (f"artifacts/provenance/{name}.intoto.json", links[name].sha256),
                (f"artifacts/{name}/index.json", str(links[name].index_sha256)),
            ):
                dependencies.append({"name": path, "digest": {"sha256": digest}})
        if stage in ("generate", "score"):
            model = {"name": f"model:{stage}", "uri": f"hub:made/{stage}", "digest": {"gitCommit": "a" * 40}}
            dependencies.append(model | {"annotations": {"name": f"made-{stage}", "licence": "Apache-2.0"}})
        notes = {"python": "3.11", "packages": {"torch": "2.13.0"}}
        dependencies.append({"name": "code:sources", "digest": {"sha256": "b" * 64}})
        dependencies.append({"name": "environment", "digest": {"sha256": "c" * 64}, "annotations": notes})
        shards = len(world.planned) // SETS_PER_SHARD
        subjects = {f"artifacts/{stage}/{number:06d}.tar": hexadecimal(stage, number) for number in range(shards)}
        subjects[f"artifacts/{stage}/index.json"] = index
        named = {name: str(links[name].index_sha256) for name in inputs}
        external = {"stage": stage, "params": params, "signature": signature_of(stage, params, named)}
        times = {"invocationId": "made-up", "startedOn": "2026-11-01T00:00:00+00:00"}
        statement = {
            "_type": STATEMENT_TYPE,
            "predicateType": PREDICATE_TYPE,
            "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in subjects.items()],
            "predicate": {
                "buildDefinition": {"externalParameters": external, "resolvedDependencies": dependencies},
                "runDetails": {"metadata": {**times, "finishedOn": "2026-11-02T00:00:00+00:00"}},
            },
        }
        links[stage] = link_of(stage, canonical_json(statement) + b"\n")
    names = list(links)
    return [links[name] for name in names[: names.index(until) + 1]]


def write_dataset(store: Path, world: World) -> str:
    chain = chain_for(world, "shard")
    sha256, kept = str(chain[-1].index_sha256), world.kept
    with building(store, "datasets", sha256) as part:
        part.add("statements", map(statement_row, chain))
        part.add("models", model_rows(chain))
        part.add("assets", assets(world))
        part.add("prompts", prompts(world))
        part.add("samples", samples(kept))
        part.add("sets", sets(world, kept))
        part.add("decisions", decisions(world, set(kept)))
        own = statement_row(chain[-1])
        facts = {"objects": len(world.objects), "sets": len(kept), "samples": IMAGES * len(kept), "shards": 0}
        named = {name: own[name] for name in ("signature", "statement", "finished", "commit", "dirty")}
        part.add("datasets", [{**facts, **named, "bytes": 0, "recipe": "made up", "seed": 0}])
        part.finish(sources_of(chain))
    return sha256


def assets(world: World) -> Iterator[Row]:
    for number, name in enumerate(world.objects):
        yield {
            "object_id": name,
            "fate": "usable",
            "split": "train",
            "category": f"category {number % 1200}",
            "caption": f"a carved thing number {number} with a handle and two feet",
            "licence": LICENCES[number % len(LICENCES)],
            "source": "objaverse",
            "uri": f"objaverse:{name}",
            "source_sha256": hexadecimal("source", name),
            "mesh_sha256": hexadecimal("mesh", name),
            "outcome": "found",
        }
        if number % 10 == 0:
            why = {"reason": "licence_not_allowed", "detail": "by-nc"}
            yield {"object_id": f"refused-{name}", "fate": "rejected", "uri": f"objaverse:refused-{name}", **why}


def prompts(world: World) -> Iterator[Row]:
    for name in world.objects:
        for place in range(IMAGES * SETS_PER_OBJECT):
            text = f"a carved thing {name[:6]} in scene number {place} at dusk"
            who = {"object_id": name, "place": place, "writer": "llm@1", "kind": "scene"}
            yield {**who, "accepted": True, "text": text}


def samples(kept: list[str]) -> Iterator[Row]:
    for key in kept:
        for index in range(IMAGES):
            name = sample_id_of(key, index)
            text = f"a carved thing {name[:6]} in scene number {index} at dusk"
            yield {
                "sample_id": name,
                "set_id": key,
                "object_id": key[:32],
                "image_index": index,
                "prompt": text,
                "prompt_kind": "scene",
                "prompt_sent": f"{text}. On the ground.",
                "seed": int(hexadecimal("seed", name)[:15], 16),
                "png_sha256": hexadecimal("png", name),
                "mask_sha256": hexadecimal("mask", name),
            }


def shards_of(kept: list[str]) -> dict[str, str]:
    return {key: hexadecimal("shard", number // SETS_PER_SHARD) for number, key in enumerate(kept)}


def sets(world: World, kept: list[str]) -> Iterator[Row]:
    shards = shards_of(kept)
    for number, key in enumerate(kept):
        yield {
            "set_id": key,
            "object_id": key[:32],
            "fate": "published",
            "images": IMAGES,
            "category": "thing",
            "caption": "a carved thing",
            "model": "made-generate@1",
            "shard": f"{number // SETS_PER_SHARD:06d}.tar",
            "shard_sha256": shards[key],
        }
    for key in sorted(set(world.planned) - set(kept)):
        why = {"fate": "dropped", "stage": "select", "reason": "set_too_small", "images": 0}
        yield {"set_id": key, "object_id": key[:32], **why}


def decisions(world: World, kept: set[str]) -> Iterator[Row]:
    for key in world.planned:
        verdict = {"kept": True} if key in kept else {"kept": False, "reason": "low_quality", "value": 5.1}
        for index in range(IMAGES):
            yield {
                "sample_id": sample_id_of(key, index),
                "set_id": key,
                "image_index": index,
                "quality": 6.5,
                "identity": 0.8,
                "area": 0.2,
                **verdict,
            }


def write_checkpoint(store: Path, world: World) -> str:
    chain = chain_for(world, "train")
    sha256, own = hexadecimal("checkpoint", len(world.objects)), statement_row(chain[-1])
    facts = {name: own[name] for name in ("signature", "statement", "finished", "commit", "dirty")}
    facts |= {"dataset_sha256": chain[-2].index_sha256, "steps": world.steps, "lora_rank": 64, "height": 512}
    with building(store, "checkpoints", sha256) as part:
        part.add("training_statements", map(statement_row, chain))
        base = {"base_model": "made-generate", "base_revision": "a" * 40, "base_licence": "Apache-2.0"}
        part.add("checkpoints", [{**facts, **base, "width": 512, "reference_form": "separate"}])
        part.add("ledger", ledger(world))
        part.finish(sources_of(chain))
    return sha256


def ledger(world: World) -> Iterator[Row]:
    rng, kept = random.Random(0), world.kept
    shards = shards_of(kept)
    for step in range(world.steps):
        for place in range(world.batch):
            key = rng.choice(kept)
            target = rng.randrange(IMAGES)
            where = {"step": step, "place": place, "set_id": key, "shard_sha256": shards[key]}
            yield {**where, "use": "target", "sample_id": sample_id_of(key, target), "text": True}
            for slot in range(rng.randint(1, IMAGES)):
                name = sample_id_of(key, (target + slot + 1) % IMAGES)
                yield {**where, "use": "reference", "slot": slot, "sample_id": name, "flipped": False}


def questions(
    world: World, datasets: list[str], checkpoint: str
) -> dict[str, tuple[list[str], Callable[[Store], Any]]]:
    """What is asked: words of the command, and the same of an open store."""
    key = world.kept[len(world.kept) // 2]
    sample, png = sample_id_of(key, 1), hexadecimal("png", sample_id_of(key, 1))
    asked: dict[str, tuple[list[str], Callable[[Store], Any]]] = {
        "trace a checkpoint": (["trace", checkpoint], lambda store: trace(store, checkpoint)),
        "trace an image": (["trace", sample], lambda store: trace(store, sample)),
    }
    for kind, value in {
        "asset": key[:32],
        "license": "CC-BY-SA-4.0",
        "model": "made-generate",
        "sample": sample,
        "prompt": sample[:6],
    }.items():
        asked[f"find --{kind}"] = (
            ["find", f"--{kind}", value],
            lambda store, kind=kind, value=value: find(store, kind, value),
        )
    query = f"SELECT * FROM samples WHERE png_sha256 = '{png}'"
    asked["sql: an image by its digest"] = (["sql", query], lambda store: store.ask(query))
    counted = "SELECT licence, count(*) FROM samples JOIN assets USING (dataset_sha256, object_id) GROUP BY ALL"
    asked["sql: images by licence"] = (["sql", counted], lambda store: store.ask(counted))
    used = "SELECT sample_id, count(*) AS uses FROM ledger GROUP BY ALL ORDER BY uses DESC, sample_id LIMIT 10"
    asked["sql: images used most"] = (["sql", used], lambda store: store.ask(used))
    asked["diff of two datasets"] = (["diff", *datasets], lambda store: diff(store, *datasets))
    return asked


def seconds(call: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Medians of wall and processor time, that of child processes included."""
    walls, works = [], []
    for _ in range(repeats):
        start, before = time.perf_counter(), processor_seconds()
        call()
        walls.append(time.perf_counter() - start)
        works.append(processor_seconds() - before)
    return statistics.median(walls), statistics.median(works)


def processor_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def build(workspace: Path, world: World) -> tuple[list[str], str]:
    """Both datasets and the checkpoint of the first; kept from an earlier call."""
    store = store_folder(workspace)
    less = World(world.objects[: round(SECOND * len(world.objects))], world.steps, world.batch, 6.2)
    chains = [chain_for(own, "shard") for own in (world, less)]
    datasets = [str(chain[-1].index_sha256) for chain in chains]
    for own, sha256 in zip((world, less), datasets, strict=True):
        if not part_folder(store, "datasets", sha256).exists():
            write_dataset(store, own)
    checkpoint = hexadecimal("checkpoint", len(world.objects))
    if not part_folder(store, "checkpoints", checkpoint).exists():
        write_checkpoint(store, world)
    return datasets, checkpoint


def measure(workspace: Path, world: World, repeats: int) -> list[list[str]]:
    datasets, checkpoint = build(workspace, world)
    opened = Store(store_folder(workspace))
    rows = []
    for name, (words, ask) in questions(world, datasets, checkpoint).items():
        command = [sys.executable, "-m", "flows.cli", "audit", *words, "--workspace", str(workspace)]

        def new_process(command: list[str] = command) -> None:
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

        ask(opened)
        times = (*seconds(new_process, repeats), *seconds(lambda ask=ask: ask(opened), repeats))
        rows.append([name, *(f"{value:.2f}" for value in times)])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=300_000)
    parser.add_argument("--steps", type=int, default=25_000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workspace", type=Path, help="keep the store here; default: a temporary folder")
    options = parser.parse_args()
    world = world_of(options.samples, options.steps, options.batch)
    with tempfile.TemporaryDirectory() as temporary:
        workspace = options.workspace or Path(temporary)
        start = time.perf_counter()
        build(workspace, world)
        built = time.perf_counter() - start
        rows = measure(workspace, world, options.repeats)
        store = Store(store_folder(workspace))
        counts = [
            f"{store.row(f'SELECT count(*) AS n FROM {name}')['n']:,} {words}"
            for name, words in (("samples", "images"), ("decisions", "decisions"), ("ledger", "uses in the ledger"))
        ]
        size = sum(path.stat().st_size for path in store_folder(workspace).rglob("*.parquet"))
    print(f"{', '.join(counts)} in {size / 1e6:.0f} MB of Parquet (written in {built:.0f} s), two datasets\n")
    print(markdown(["question", "new process, s", "of it processor", "warm, s", "of it processor"], rows))


if __name__ == "__main__":
    main()
