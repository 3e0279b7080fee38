"""Shard: the published dataset, the kept images of kept sets with their whole record (see data/published.py)."""

import json
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from data.card import CardFacts, write_card
from data.ids import seed_for
from data.published import DroppedSample, PublishedAsset, PublishedRecord, PublishedSample
from data.records import AssetRecord, DecisionRecord, GeneratedRecord, ScoreRecord
from data.shards import Sample, ShardIndex, ShardWriter, read_records
from data.stage import ShardSpec, StageContext, chunk
from tasks.select import DECISIONS


def plan(ctx: StageContext) -> list[ShardSpec]:
    """One key per kept set of the training split that is chosen; ValueError for fewer than the recipe asks for."""
    held_out = set(ctx.index("assets").summary["held_out_objects"])
    decisions = ctx.index("select")
    if not decisions.keys:
        raise ValueError(
            f"shard: no set was generated; of {len(ctx.index('assets').keys)} objects {len(held_out)} are held out, "
            "and the render and generate stages failed the others (syncd status says why)"
        )
    object_of = {}
    with ctx.file("select", DECISIONS).open("rb") as stream:
        for decision in map(json.loads, stream):
            if decision["kept"] and decision["object_id"] not in held_out:
                object_of[decision["set_id"]] = decision["object_id"]
    if not object_of:
        raise ValueError(
            f"shard: none of {len(decisions.keys)} sets was kept, so there is no dataset to publish; "
            f"images dropped by reason: {decisions.summary.get('dropped_images')}; see the score histograms in "
            "artifacts/select/histograms.json, then lower select.min_quality or select.min_identity in the recipe"
        )
    return chunk([*_chosen(ctx, object_of), *ctx.revoked.sets], ctx.recipe.shard.shard_size)


def _chosen(ctx: StageContext, object_of: Mapping[str, str]) -> list[str]:
    """The sets to publish, of the kept ones and their objects."""
    section, keys = ctx.recipe.shard, list(object_of)

    def enough(names: Collection[str], count: int, what: str) -> None:
        if count > len(names):
            raise ValueError(
                f"shard.{what} is {count}; there are {len(names)} {what} among the {len(object_of)} kept; ask for "
                "fewer, take more objects (assets.count), or lower select.min_quality or select.min_identity"
            )

    if section.categories:
        assets = _records(ctx, "assets", sorted(set(object_of.values())), AssetRecord)
        sizes = Counter(assets[object_of[key]].category for key in keys)
        enough(sizes, section.categories, "categories")
        # The largest, so that few categories can still give as many sets as many.
        wanted = sorted(sizes, key=lambda name: (-sizes[name], name))[: section.categories]
        keys = [key for key in keys if assets[object_of[key]].category in wanted]
    if section.sets:
        enough(keys, section.sets, "sets")
        keys = sorted(keys, key=lambda key: seed_for(ctx.recipe.seed, "shard/sets", key))[: section.sets]
    return sorted(keys)


def run_shard(ctx: StageContext, spec: ShardSpec, out: ShardWriter) -> None:
    scores = _records(ctx, "score", spec.keys, ScoreRecord)
    decisions = _records(ctx, "select", spec.keys, DecisionRecord)
    assets = _records(ctx, "assets", sorted({item.object_id for item in decisions.values()}), AssetRecord)
    thresholds = ctx.index("select").summary["thresholds"]
    for sample in ctx.read("generate", spec.keys):
        generated = GeneratedRecord.model_validate(sample.record)
        if generated.split != "train":
            raise ValueError(
                f"set {sample.key} is of the {generated.split} split, but assets.eval_share and assets.split_seed put "
                "its object into train; the stages before were run with other settings: run the pipeline again"
            )
        asset = assets[generated.object_id]
        if asset.mesh_sha256 != generated.mesh_sha256:
            raise ValueError(
                f"set {sample.key} was made from mesh {generated.mesh_sha256}, the assets stage now holds "
                f"{asset.mesh_sha256} for {generated.object_id}: run the pipeline again"
            )
        record = published(generated, scores[sample.key], decisions[sample.key], asset, thresholds)
        out.add(sample.key, record, _files(sample, record))


def _records(ctx: StageContext, stage: str, keys: Any, kind: Any) -> dict[str, Any]:
    return {sample.key: kind.model_validate(sample.record) for sample in ctx.read(stage, keys)}


def published(
    generated: GeneratedRecord,
    scores: ScoreRecord,
    decision: DecisionRecord,
    asset: AssetRecord,
    thresholds: dict[str, float],
) -> PublishedRecord:
    """Everything that is known of one kept set."""
    kept, dropped = [], []
    for image, image_scores, verdict in zip(generated.samples, scores.images, decision.images, strict=True):
        if verdict.kept:
            kept.append(PublishedSample(**image.model_dump(), scores=image_scores))
        else:
            dropped.append(
                DroppedSample(
                    sample_id=image.sample_id, index=image.index, scores=image_scores, reasons=verdict.reasons
                )
            )
    return PublishedRecord(
        set_id=generated.set_id,
        object_id=generated.object_id,
        split=generated.split,
        category=generated.category,
        caption=generated.caption,
        appearance=generated.appearance,
        asset=PublishedAsset(
            source=asset.source,
            uri=asset.uri,
            licence=asset.licence,
            source_sha256=asset.source_sha256,
            mesh_sha256=asset.mesh_sha256,
        ),
        model=generated.model,
        settings=generated.settings,
        samples=kept,
        dropped=dropped,
        identity_pairs=scores.identity_pairs,
        thresholds=thresholds,
    )


def _files(sample: Sample, record: PublishedRecord) -> dict[str, bytes]:
    names = [f"{image.index}.{kind}" for image in record.samples for kind in ("png", "mask.png")]
    return {name: sample.files[name] for name in names}


def finalize(ctx: StageContext, index: ShardIndex, out_dir: Path) -> dict[str, Any]:
    """Writes DATASET_CARD.md and card.json."""
    origins: dict[str, PublishedAsset] = {}
    images, categories, generators = Counter(), Counter(), Counter()
    for sample in read_records(out_dir, index):
        record = PublishedRecord.model_validate(sample.record)
        origins[record.object_id] = record.asset
        images[len(record.samples)] += 1
        categories[record.category] += 1
        generators[record.model] += 1
    select, score = ctx.index("select").summary, ctx.index("score").summary
    models = ctx.recipe.models
    facts = CardFacts(
        title=ctx.recipe.shard.title,
        recipe=ctx.recipe.name,
        seed=ctx.recipe.seed,
        objects=len(origins),
        sets=images.total(),
        images=sum(count * sets for count, sets in images.items()),
        images_per_set=_sorted(images),
        categories=_sorted(categories),
        licences=_sorted(Counter(asset.licence for asset in origins.values())),
        sources=_sorted(Counter(asset.source for asset in origins.values())),
        held_out_objects=ctx.index("assets").summary.get("held_out"),
        thresholds=select["thresholds"],
        set_yield=select["set_yield"],
        image_yield=select["image_yield"],
        dropped_images=select["dropped_images"],
        generators=_sorted(generators),
        generator_licence=models.generator.licence,
        scorers=score["models"],
        miniature=models.generator.source.startswith("miniature:"),
        described=ctx.recipe.assets.in_words,
        writer=ctx.recipe.prompts.writer if models.writer is None else f"{models.writer.name}@{models.writer.revision}",
        bytes=sum(entry.bytes for entry in index.shards),
        shards=len(index.shards),
    )
    write_card(facts, out_dir)
    return {"objects": facts.objects, "sets": facts.sets, "images": facts.images, "licences": facts.licences}


def _sorted(counts: Mapping[Any, int]) -> dict[str, int]:
    return {str(value): count for value, count in sorted(counts.items())}
