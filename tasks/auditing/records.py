"""Records and images of finished stages against those that they follow from, sample by sample."""

import hashlib
from collections.abc import Iterator
from typing import Any

from data.records import AssetRecord, DecisionRecord, GeneratedRecord, PromptRecord, RenderRecord, ScoreRecord
from data.shards import Sample, ShardEntry, ShardIndex, ShardWriter, load_index, read_shard, read_tar
from data.stage import ShardSpec, StageContext
from tasks import generate, select, shard

SHORT = 120
REPEATED = {"split", "category", "licence", "mesh_sha256"}
"""Fields of an asset that later records of the object repeat."""


def check_meshes(ctx: StageContext) -> Iterator[str]:
    """Every mesh is the one that its record names. `ctx`: of any stage that reads assets."""
    for entry in ctx.index("assets").shards:
        for sample in read_shard(ctx.output_dir("assets"), entry):
            mesh = sample.files.get("glb")
            found = None if mesh is None else hashlib.sha256(mesh).hexdigest()
            if found != sample.record["mesh_sha256"]:
                yield _problem("assets", entry, sample.key, "mesh", found, sample.record["mesh_sha256"])


def check_generated(ctx: StageContext) -> Iterator[str]:
    """Prompts, seeds and settings are those that prompts, views and recipe give; masks are those of the views.

    `ctx`: of the generate stage. Whether the pixels follow is what `syncd audit replay` asks.
    """
    model = ctx.recipe.models.generator
    settings = ctx.recipe.generate.model_dump(mode="json", exclude={"max_failed_fraction", "shard_size"})
    for entry, samples in _shards(ctx):
        rendered = {sample.key: sample for sample in ctx.read("render", entry.keys)}
        objects = sorted({sample.record["object_id"] for sample in rendered.values()})
        prompts = {own.key: PromptRecord.model_validate(own.record) for own in ctx.read("prompts", objects)}
        for sample in samples:
            view = rendered[sample.key]
            render, made = RenderRecord.model_validate(view.record), GeneratedRecord.model_validate(sample.record)
            written = prompts[render.object_id]
            chosen = generate.prompts_of_set(written.prompts, render.set_id, ctx.recipe.render.views_per_set)
            expected = {
                "samples": [own.model_dump(mode="json") for own in generate.sample_records(ctx, made.set_id, chosen)],
                "caption": written.caption,
                "appearance": written.appearance,
                "model": f"{model.name}@{model.revision}",
                "settings": settings,
                **{name: getattr(render, name) for name in ("set_id", "object_id", *sorted(REPEATED))},
            }
            yield from _fields("generate", entry, sample, expected)
            for name in (f"{place}.mask.png" for place in range(len(render.views))):
                if sample.files.get(name) != view.files[name]:
                    yield f"generate/{entry.name}: {sample.key}: {name} is not the mask of its view"


def check_rendered(ctx: StageContext) -> Iterator[str]:
    """Views name the asset that they are of. `ctx`: of the render stage."""
    for entry, samples in _shards(ctx):
        assets = _records(ctx, "assets", [key.rpartition("-s")[0] for key in entry.keys], AssetRecord)
        for sample in samples:
            asset = assets[sample.record["object_id"]]
            yield from _fields("render", entry, sample, {name: getattr(asset, name) for name in sorted(REPEATED)})


def check_decisions(ctx: StageContext) -> Iterator[str]:
    """Decisions are those that the scores and thresholds give. `ctx`: of the select stage, in a folder to write to."""
    for number, (entry, samples) in enumerate(_shards(ctx)):
        with ShardWriter(ctx.work_dir, ctx.stage, ctx.signature, number) as out:
            select.run_shard(ctx, ShardSpec(number, tuple(entry.keys)), out)
            out.finish()
        again = ctx.work_dir / f"{number:06d}.tar"
        expected = {sample.key: sample.record for sample in read_tar(again.read_bytes())}
        again.unlink()
        for sample in samples:
            yield from _fields("select", entry, sample, expected[sample.key])


def check_published(ctx: StageContext) -> Iterator[str]:
    """The dataset holds the sets that were kept and chosen, with the records and the bytes of the stages before.

    `ctx`: of the shard stage.
    """
    index = load_index(ctx.output_dir(ctx.stage))
    planned = [list(spec.keys) for spec in shard.plan(ctx)]
    if planned != [entry.keys for entry in index.shards]:
        wanted = {key for keys in planned for key in keys}
        odd = sorted(wanted ^ set(index.keys))
        yield f"shard: its sets are not those that select and the recipe give; {len(odd)} differ, first {odd[:3]}"
    thresholds = ctx.index("select").summary["thresholds"]
    for entry, samples in _shards(ctx):
        made = {sample.key: sample for sample in ctx.read("generate", entry.keys)}
        scores = _records(ctx, "score", entry.keys, ScoreRecord)
        decisions = _records(ctx, "select", entry.keys, DecisionRecord)
        objects = sorted({sample.record["object_id"] for sample in made.values()})
        assets = _records(ctx, "assets", objects, AssetRecord)
        for sample in samples:
            own = GeneratedRecord.model_validate(made[sample.key].record)
            expected = shard.published(
                own, scores[sample.key], decisions[sample.key], assets[own.object_id], thresholds
            )
            yield from _fields("shard", entry, sample, expected.model_dump(mode="json"))
            files = shard.published_files(made[sample.key], expected)
            for name in sorted({*files, *sample.files}):
                if sample.files.get(name) != files.get(name):
                    yield f"shard/{entry.name}: {sample.key}: {name} is not the one that was generated and kept"


def samples_of(ctx: StageContext) -> dict[str, list[str]]:
    """Ids of the kept images of every published set. `ctx`: of the shard stage."""
    return {
        sample.key: [image["sample_id"] for image in sample.record["samples"]]
        for _, samples in _shards(ctx)
        for sample in samples
    }


def _shards(ctx: StageContext) -> Iterator[tuple[ShardEntry, list[Sample]]]:
    """Every published shard of the stage itself."""
    directory = ctx.output_dir(ctx.stage)
    index: ShardIndex = load_index(directory)
    for entry in index.shards:
        yield entry, list(read_shard(directory, entry))


def _records(ctx: StageContext, stage: str, keys: Any, kind: Any) -> dict[str, Any]:
    return {sample.key: kind.model_validate(sample.record) for sample in ctx.read(stage, keys)}


def _fields(stage: str, entry: ShardEntry, sample: Sample, expected: dict[str, Any]) -> Iterator[str]:
    for name, value in expected.items():
        if sample.record.get(name) != value:
            yield _problem(stage, entry, sample.key, name, sample.record.get(name), value)


def _problem(stage: str, entry: ShardEntry, key: str, name: str, found: Any, expected: Any) -> str:
    return f"{stage}/{entry.name}: {key}: {name} is {_short(found)}, the stages before give {_short(expected)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHORT else f"{text[:SHORT]}..."
