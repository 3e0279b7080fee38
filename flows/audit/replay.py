"""`syncd audit replay`: generate random samples of the dataset once more, by the stage that made them, and compare."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from configs.schema import Runtime
from data.audit.parts import AuditError
from data.images import decode_png
from data.release.marking import mark_png
from data.shards import Sample, ShardError, ShardIndex, ShardWriter, load_index, read_shard, read_tar
from data.stage import ShardSpec, StageContext
from flows.audit.recorded import check_version, recorded_contexts
from flows.engine import seen_options, threads_per_worker
from flows.worker import limit_threads, resolve_device
from flows.workspace import find_workspace
from tasks import generate
from tasks.auditing.chain import ChainError, chain_of
from tasks.auditing.dataset import json_records

STAGE = "generate"


@dataclass(frozen=True)
class Replayed:
    """One published image against the same, generated once more."""

    sample_id: str
    drawn: bool
    """Drawn at random; the others are of the same set and come with it."""
    same_bytes: bool
    max_difference: int | None
    """Largest difference of a value, of 255; None if the sizes differ or there is no image to compare."""
    differing: float
    """Share of the pixels that differ."""
    mask_equal: bool
    problem: str | None = None


def replay(
    folder: Path, count: int, seed: int, runtime: Runtime, tell: Callable[[str], None] = lambda line: None
) -> list[Replayed]:
    """`count` random images of the published dataset, and the other kept ones of their sets, generated anew.

    The sets that were denoised together with a drawn one are denoised with it again, since kernels add in another
    order with another size of batch. AuditError if there is no dataset, or if it does not hold so many images;
    ConfigError if the code here is of another version than that which made it.
    """
    workspace = find_workspace(folder)
    dataset = workspace / "artifacts" / "shard"
    if not (dataset / "index.json").exists():
        raise AuditError(f"{dataset}: no dataset to replay; make one with: syncd run --until shard")
    try:
        return _replay(workspace, dataset, count, seed, runtime, tell)
    except (ChainError, ShardError) as error:
        raise AuditError(f"replay needs the stages that the dataset was made from: {error}") from error


def _replay(
    workspace: Path, dataset: Path, count: int, seed: int, runtime: Runtime, tell: Callable[[str], None]
) -> list[Replayed]:
    chain = {link.stage: link for link in chain_of(workspace, "shard")}
    check_version(chain[STAGE])
    published, made = load_index(dataset), load_index(workspace / "artifacts" / STAGE)
    ids = sorted(
        image["sample_id"]
        for entry in published.shards
        for _, record in json_records(dataset, entry)
        for image in record["samples"]
    )
    if not 0 < count <= len(ids):
        raise AuditError(f"replay {count}: the dataset holds {len(ids)} images; ask for 1 to {len(ids)}")
    drawn = set(random.Random(seed).sample(ids, count))
    sets = {name.rpartition("-")[0] for name in drawn}
    kept = [
        sample
        for entry in published.shards
        if sets.intersection(entry.keys)
        for sample in read_shard(dataset, entry)
        if sample.key in sets
    ]
    limit_threads(threads_per_worker(runtime, len(made.shards)))
    device, options = resolve_device(runtime.device), seen_options(runtime)
    with recorded_contexts(workspace, list(chain.values()), device, options) as contexts:
        again = _generate(contexts[STAGE], made, sets, tell)
    return [row for sample in kept for row in _compare(sample, again[sample.key], drawn)]


def _generate(
    ctx: StageContext, made: ShardIndex, sets: set[str], tell: Callable[[str], None]
) -> dict[str, Sample | None]:
    """The sets by key, None for one that failed, from whole batches as the stage cut its shards into them."""
    batches = [batch for entry in made.shards for batch in _batches(entry.keys, ctx.recipe.generate.batch_sets)]
    wanted = [batch for batch in batches if sets.intersection(batch)]
    again: dict[str, Sample | None] = dict.fromkeys(sets)
    for number, batch in enumerate(wanted):
        tell(f"batch {number + 1} of {len(wanted)}: {len(batch)} sets")
        with ShardWriter(ctx.work_dir, STAGE, ctx.signature, number) as out:
            generate.run_shard(ctx, ShardSpec(number, tuple(batch)), out)
            out.finish()
        tar = ctx.work_dir / f"{number:06d}.tar"
        again |= {sample.key: sample for sample in read_tar(tar.read_bytes()) if sample.key in sets}
    return again


def _batches(keys: Sequence[str], size: int) -> list[Sequence[str]]:
    return [keys[start : start + size] for start in range(0, len(keys), size)]


def _compare(published: Sample, again: Sample | None, drawn: set[str]) -> list[Replayed]:
    rows = []
    for image in published.record["samples"]:
        name, kept = image["sample_id"], published.files[f"{image['index']}.png"]
        mask = f"{image['index']}.mask.png"
        if again is None:
            rows.append(Replayed(name, name in drawn, False, None, 1.0, False, "the stage failed its set this time"))
            continue
        anew = mark_png(again.files[f"{image['index']}.png"])
        largest, share, problem = _difference(kept, anew)
        told = {own["sample_id"]: own for own in again.record["samples"]}[name]
        other = sorted(field for field in told if told[field] != image[field])
        if other:
            problem = f"its record has another {', '.join(other)}"
        same_mask = published.files[mask] == again.files[mask]
        rows.append(Replayed(name, name in drawn, kept == anew, largest, share, same_mask, problem))
    return rows


def _difference(first: bytes, second: bytes) -> tuple[int | None, float, str | None]:
    """Largest difference of a value, share of pixels that differ, and what cannot be compared."""
    try:
        one, two = (decode_png(data).astype(int) for data in (first, second))
    except (OSError, SyntaxError, ValueError) as error:
        return None, 1.0, f"cannot be read as a picture: {error}"
    if one.shape != two.shape:
        return None, 1.0, f"its size is {one.shape}, anew {two.shape}"
    apart = np.abs(one - two)
    return int(apart.max()), float(apart.reshape(*one.shape[:2], -1).any(axis=-1).mean()), None


def differs(row: Replayed, tolerance: int) -> bool:
    """Whether an image counts as different. At a tolerance of 0 its bytes and its mask must be equal."""
    if row.problem is not None or row.max_difference is None or not row.mask_equal:
        return True
    return row.max_difference > tolerance if tolerance else not row.same_bytes
