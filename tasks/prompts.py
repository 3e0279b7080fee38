"""Prompts: for every object, captions of new contexts, validated, and what was rejected with its reason."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from data.assets.subjects import series_of
from data.ids import canonical_json
from data.records import AssetRecord, Prompt, PromptRecord
from data.shards import ShardIndex, ShardWriter, read_all, write_atomic
from data.stage import ShardSpec, StageContext, chunk
from models.prompts.coverage import as_markdown, coverage
from models.prompts.validate import Limits, Order, write_validated
from models.prompts.writer import CaptionWriter
from models.prompts.writers import open_writer


def plan(ctx: StageContext) -> list[ShardSpec]:
    """One key per object. Subjects of one series share a shard, however large: their looks are asked for together."""
    keys, size = ctx.planned("assets"), ctx.recipe.prompts.shard_size
    if ctx.recipe.assets.source != "subjects":
        return chunk(keys, size)
    shards: list[list[str]] = [[]]
    for _, series in groupby(sorted(keys), key=series_of):
        own = list(series)
        if shards[-1] and len(shards[-1]) + len(own) > size:
            shards.append([])
        shards[-1] += own
    return [ShardSpec(number, tuple(own)) for number, own in enumerate(shards) if own]


def run_shard(ctx: StageContext, spec: ShardSpec, out: ShardWriter) -> None:
    """All objects of the shard are asked for together; what is missing is asked for again."""
    section = ctx.recipe.prompts
    writer = open_writer(section, ctx.recipe.models.writer, ctx.device, ctx.options, answers_folder(ctx))
    limits = Limits(min_words=section.min_words, max_words=section.max_words, max_rounds=section.max_rounds)
    wanted = {
        "train": {"scene": section.scenes, "other_object": section.other_object, "style": section.style},
        "eval": {"background": section.eval_background, "property": section.eval_property},
    }
    assets = [AssetRecord.model_validate(sample.record) for sample in ctx.read("assets", spec.keys)]
    looks = appearances(writer, [asset for asset in assets if asset.mesh_sha256 is None], limits, ctx.recipe.seed)
    orders = [
        # Where there is no mesh, the mask comes from the attention to the category: every prompt must have that word.
        Order(
            asset.object_id,
            asset.caption,
            asset.category,
            wanted[asset.split],
            asset.attributes,
            names=(asset.category,) if asset.mesh_sha256 is None else (),
        )
        for asset in assets
    ]
    for asset, written in zip(assets, write_validated(writer, orders, limits, ctx.recipe.seed), strict=True):
        look = looks.get(asset.object_id, Look(None))
        problem = look.problem or written.problem
        if problem:
            out.fail(asset.object_id, "too_few_prompts", problem)
            continue
        record = PromptRecord(
            object_id=asset.object_id,
            split=asset.split,
            category=asset.category,
            caption=asset.caption,
            appearance=look.text,
            writer=writer.name,
            prompts=[_detailed(writer, prompt, asset.caption, look.text) for prompt in written.prompts],
            rejected=list(written.rejected),
        )
        out.add(asset.object_id, record)


@dataclass(frozen=True)
class Look:
    """What an object looks like, or why nobody knows; neither for an object with a mesh."""

    text: str | None
    problem: str | None = None


def appearances(writer: CaptionWriter, assets: Sequence[AssetRecord], limits: Limits, seed: int) -> dict[str, Look]:
    """The looks of objects without mesh. Those of one series are asked for together, and each object takes its own."""
    series = {_series(asset): asset for asset in assets}
    orders = [
        Order(
            name, str(asset.attributes.get("kind", asset.caption)), asset.category, _looks_of(asset), asset.attributes
        )
        for name, asset in sorted(series.items())
    ]
    written = dict(zip(sorted(series), write_validated(writer, orders, limits, seed), strict=True))
    found = {}
    for asset in assets:
        own, number = written[_series(asset)], int(asset.attributes.get("number", 0))
        if number < len(own.prompts):
            found[asset.object_id] = Look(own.prompts[number].text)
        else:
            found[asset.object_id] = Look(None, own.problem)
    return found


def _series(asset: AssetRecord) -> str:
    return series_of(asset.object_id) if asset.source == "subjects" else asset.object_id


def _looks_of(asset: AssetRecord) -> dict[str, int]:
    return {"appearance": int(asset.attributes.get("of", 1))}


def _detailed(writer: CaptionWriter, prompt: Prompt, object_caption: str, appearance: str | None) -> Prompt:
    if appearance is None:
        return prompt
    return prompt.model_copy(update={"detailed": writer.with_appearance(prompt.text, object_caption, appearance)})


def answers_folder(ctx: StageContext) -> Path:
    """Where a server's answers are kept: for any recipe, so that a changed limit or seed asks only what is new."""
    return ctx.workspace / "artifacts" / ".answers"


def finalize(ctx: StageContext, index: ShardIndex, out_dir: Path) -> dict[str, Any]:
    """Writes coverage.json and coverage.md: prompts per object and kind, lengths, what several objects share."""
    covered = coverage(PromptRecord.model_validate(sample.record) for sample in read_all(out_dir, index))
    write_atomic(out_dir / "coverage.json", canonical_json(covered) + b"\n")
    write_atomic(out_dir / "coverage.md", as_markdown(covered).encode())
    return {
        "objects": len(index.keys),
        "prompts": sum(kind["prompts"] for kind in covered["kinds"].values()),
        "rejected": sum(covered["rejected"].values()),
        "shared_captions": covered["shared_captions"],
        "kinds": covered["kinds"],
    }
