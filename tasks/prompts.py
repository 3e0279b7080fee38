"""Prompts: for every object, captions of new contexts, validated, and what was rejected with its reason."""

from pathlib import Path
from typing import Any

from data.ids import seed_for
from data.records import AssetRecord, Prompt, PromptRecord, Rejected
from data.shards import ShardIndex, ShardWriter, read_all
from data.stage import ShardSpec, StageContext, chunk
from models.prompts.grammar import GrammarWriter
from models.prompts.validate import Limits, PromptError, write_validated


def plan(ctx: StageContext) -> list[ShardSpec]:
    return chunk(ctx.index("assets").keys, ctx.recipe.prompts.shard_size)


def run_shard(ctx: StageContext, spec: ShardSpec, out: ShardWriter) -> None:
    section = ctx.recipe.prompts
    writer = GrammarWriter()
    limits = Limits(min_words=section.min_words, max_words=section.max_words, max_rounds=section.max_rounds)
    wanted = {
        "train": {"scene": section.scenes, "other_object": section.other_object},
        "eval": {"background": section.eval_background, "property": section.eval_property},
    }
    for sample in ctx.read("assets", spec.keys):
        asset = AssetRecord.model_validate(sample.record)
        prompts: list[Prompt] = []
        rejected: list[Rejected] = []
        try:
            for kind, count in wanted[asset.split].items():
                accepted, refused = write_validated(
                    writer,
                    asset.caption,
                    category=asset.category,
                    kind=kind,
                    n=count,
                    seed=seed_for(ctx.recipe.seed, f"prompts/{kind}", asset.object_id),
                    limits=limits,
                    taken=tuple(prompt.text for prompt in prompts),
                    attributes=asset.attributes,
                )
                prompts += accepted
                rejected += refused
        except PromptError as error:
            out.fail(asset.object_id, error.reason, str(error))
            continue
        record = PromptRecord(
            object_id=asset.object_id,
            split=asset.split,
            category=asset.category,
            caption=asset.caption,
            writer=writer.name,
            prompts=prompts,
            rejected=rejected,
        )
        out.add(asset.object_id, record)


def finalize(ctx: StageContext, index: ShardIndex, out_dir: Path) -> dict[str, Any]:
    prompts = rejected = 0
    for sample in read_all(out_dir, index):
        prompts += len(sample.record["prompts"])
        rejected += len(sample.record["rejected"])
    return {"objects": len(index.keys), "prompts": prompts, "rejected": rejected}
