"""Shard: the published dataset, the kept images of kept sets with their whole record (see data/published.py).

Images carry the mark of synthetic media (data/release/marking.py). Beside the shards: DATASET_CARD.md with card.json,
ATTRIBUTION.md with attribution.csv, images.parquet and croissant.json.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.schema import ModelRef
from data.assets.licences import allow_list
from data.card import CardFacts, write_card
from data.ids import seed_for
from data.published import DroppedSample, PublishedAsset, PublishedRecord, PublishedSample, SetOrigin
from data.records import AssetRecord, DecisionRecord, GeneratedRecord, ScoreRecord
from data.release.attribution import credits_of, write_attribution
from data.release.croissant import write_croissant
from data.release.images import rows_of, write_images
from data.release.licensing import Input, asset_inputs, conclude, maker
from data.release.marking import TRAINED_ALGORITHMIC_MEDIA, mark_png, source_type
from data.shards import Sample, ShardError, ShardIndex, ShardWriter, read_shard
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
    allowed = allow_list(ctx.recipe.published_licences)
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
        _check_licence(generated, asset, allowed)
        record = published(generated, scores[sample.key], decisions[sample.key], asset, thresholds)
        out.add(sample.key, record, published_files(sample, record))


def _check_licence(generated: GeneratedRecord, asset: AssetRecord, allowed: Collection[str]) -> None:
    """Selection goes by the licence that the set was generated under, this by the asset's record: both must hold."""
    name = f"set {generated.set_id}: asset {asset.object_id} is under {asset.licence}"
    if asset.licence not in allowed:
        raise ValueError(
            f"{name}, which the allow-list (select.licences, by default assets.licences) does not hold: "
            f"{', '.join(sorted(allowed))}; run the pipeline again, which leaves the set out"
        )
    if asset.licence != generated.licence:
        raise ValueError(
            f"{name}, and the set was generated when it was under {generated.licence}: run the pipeline again"
        )


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
            **{key: asset.attributes.get(key) or None for key in ("title", "author", "page")},
        ),
        model=generated.model,
        settings=generated.settings,
        samples=kept,
        dropped=dropped,
        identity_pairs=scores.identity_pairs,
        thresholds=thresholds,
    )


def published_files(sample: Sample, record: PublishedRecord) -> dict[str, bytes]:
    """The kept images, marked as synthetic, and their masks as they are."""
    files = {}
    for image in record.samples:
        files[f"{image.index}.png"] = mark_png(sample.files[f"{image.index}.png"])
        files[f"{image.index}.mask.png"] = sample.files[f"{image.index}.mask.png"]
    return files


def finalize(ctx: StageContext, index: ShardIndex, out_dir: Path) -> dict[str, Any]:
    """Writes the files beside the shards; ShardError for an image that does not say that it is synthetic."""
    sets: list[SetOrigin] = []
    write_images(_rows(index, out_dir, sets), out_dir / "images.parquet")
    credits = credits_of(sets)
    facts = _facts(ctx, index, sets, len(credits))
    write_attribution(credits, facts.title, out_dir)
    write_card(facts, out_dir)
    write_croissant(facts, index.signature, index.shards, out_dir)
    counts = {"objects": facts.objects, "sets": facts.sets, "images": facts.images, "licences": facts.licences}
    return counts | {"licence": facts.licence.expression, "commercial_use": facts.licence.commercial_use}


def _rows(index: ShardIndex, out_dir: Path, sets: list[SetOrigin]) -> Iterator[dict[str, Any]]:
    """Rows of all images, read back from the shards; fills `sets`."""
    for entry in index.shards:
        for sample in read_shard(out_dir, entry):
            record = PublishedRecord.model_validate(sample.record)
            for image in record.samples:
                found = source_type(sample.files[f"{image.index}.png"])
                if found != TRAINED_ALGORITHMIC_MEDIA:
                    raise ShardError(
                        f"{out_dir / entry.name}: {sample.key}.{image.index}.png states the digital source type "
                        f"{found}, and must state {TRAINED_ALGORITHMIC_MEDIA}; run the stage again"
                    )
            sets.append(SetOrigin.of(record))
            yield from rows_of(entry.name, sample, record)


def _facts(ctx: StageContext, index: ShardIndex, sets: Sequence[SetOrigin], credited: int) -> CardFacts:
    select, score = ctx.index("select").summary, ctx.index("score").summary
    models, makers = ctx.recipe.models, _makers(ctx)
    licences = _counted({own.object_id: own.asset.licence for own in sets}.values())
    return CardFacts(
        title=ctx.recipe.shard.title,
        recipe=ctx.recipe.name,
        seed=ctx.recipe.seed,
        objects=len({own.object_id for own in sets}),
        sets=len(sets),
        images=sum(own.images for own in sets),
        images_per_set=_counted(own.images for own in sets),
        categories=_counted(own.category for own in sets),
        licences=licences,
        sources=_counted({own.object_id: own.asset.source for own in sets}.values()),
        credited=credited,
        licence=conclude([*asset_inputs(licences), *makers]),
        allowed_licences=sorted(allow_list(ctx.recipe.published_licences)),
        refused_licences=select["sets_by_refused_licence"],
        held_out_objects=ctx.index("assets").summary.get("held_out"),
        thresholds=select["thresholds"],
        set_yield=select["set_yield"],
        image_yield=select["image_yield"],
        dropped_images=select["dropped_images"],
        generators=_counted(own.model for own in sets),
        makers={item.name: item.licence for item in makers},
        scorers=score["models"],
        miniature=models.generator.source.startswith("miniature:"),
        described=ctx.recipe.assets.in_words,
        writer=ctx.recipe.prompts.writer if models.writer is None else _named(models.writer),
        release=ctx.recipe.shard.release.model_dump(mode="json"),
        bytes=sum(entry.bytes for entry in index.shards),
        shards=len(index.shards),
    )


def _makers(ctx: StageContext) -> list[Input]:
    """The models whose output is in the dataset; those that score it leave nothing in it but numbers."""
    models = ctx.recipe.models
    found = [maker("generator", _named(models.generator), models.generator.licence)]
    if ctx.recipe.prompts.writer != "grammar" and models.writer is not None:
        found.append(maker("writer of the prompts", _named(models.writer), models.writer.licence))
    return found


def _named(model: ModelRef) -> str:
    return f"{model.name}@{model.revision}"


def _counted(values: Iterable[Any]) -> dict[str, int]:
    return {str(value): count for value, count in sorted(Counter(values).items())}
