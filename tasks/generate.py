"""Generate: K consistent images per set, from rendered views and prompts, or from prompts alone."""

from pathlib import Path
from typing import Any

import numpy as np

from configs.schema import Generate
from data.cameras import Camera
from data.correspondence import Correspondence, correspond
from data.depth import decode_depth16, inverse_depth_condition
from data.ids import object_of, sample_id_of, seed_for
from data.images import decode_mask, encode_png
from data.records import GeneratedRecord, Prompt, PromptRecord, RenderRecord, SampleRecord
from data.shards import Sample, ShardIndex, ShardWriter, read_records
from data.stage import ShardSpec, StageContext, chunk
from models import registry
from models.generator import GenerateSettings, ImageSet, SetRequest


def plan(ctx: StageContext) -> list[ShardSpec]:
    """One key per rendered set; sets of held-out objects are not generated, they are for evaluation."""
    return chunk(training_sets(ctx), ctx.recipe.generate.shard_size)


def training_sets(ctx: StageContext) -> list[str]:
    held_out = set(ctx.index("render").summary["held_out_sets"])
    planned = [key for key in ctx.planned("render") if key not in held_out]
    return [key for key in planned if object_of(key) not in ctx.revoked.held_out]


def settings_of(ctx: StageContext) -> GenerateSettings:
    section = ctx.recipe.generate
    return GenerateSettings(
        height=ctx.recipe.render.resolution,
        width=ctx.recipe.render.resolution,
        steps=section.steps,
        guidance_scale=section.guidance_scale,
        true_cfg_scale=section.true_cfg_scale,
        negative_prompt=section.negative_prompt,
        prompt_suffix=section.prompt_suffix,
        cfg_start_step=section.cfg_start_step,
        msa=section.msa,
        msa_first_step=section.msa_first_step,
        mask_dilation=section.mask_dilation,
        rope=section.rope,
        warp=section.warp,
        warp_share=section.warp_share,
        vae_tiling=section.vae_tiling,
    )


def run_shard(ctx: StageContext, spec: ShardSpec, out: ShardWriter) -> None:
    section = ctx.recipe.generate
    model = registry.load(ctx.recipe.models.generator, ctx.device, section.dtype, ctx.options.get("offload", "none"))
    settings = settings_of(ctx)
    rendered = list(ctx.read("render", spec.keys))
    objects = {sample.record["object_id"] for sample in rendered}
    prompts = {
        sample.key: PromptRecord.model_validate(sample.record) for sample in ctx.read("prompts", sorted(objects))
    }
    work = []
    for sample in rendered:
        render = RenderRecord.model_validate(sample.record)
        if render.object_id not in prompts:
            out.fail(sample.key, "no_prompts", f"the prompts stage failed object {render.object_id}")
            continue
        chosen = prompts_of_set(prompts[render.object_id].prompts, render.set_id, ctx.recipe.render.views_per_set)
        request = request_of(ctx, sample, render, chosen, prompts[render.object_id].appearance)
        try:
            model.check(request, settings)
        except ValueError as error:
            out.fail(sample.key, "bad_request", str(error))
            continue
        work.append((sample, render, chosen, request))
    texts = model.encode_sets([request for *_, request in work], settings)
    for start in range(0, len(work), section.batch_sets):
        batch = work[start : start + section.batch_sets]
        generated = model.generate_many([request for *_, request in batch], settings, texts)
        for (sample, render, chosen, request), made in zip(batch, generated, strict=True):
            record = _record(ctx, render, chosen, request, prompts[render.object_id])
            out.add(sample.key, record, _files(sample, request, made))


def prompts_of_set(prompts: list[Prompt], set_id: str, k: int) -> list[Prompt]:
    """K prompts for one set: sets of an object take consecutive runs, kinds interleaved so that each set mixes them."""
    by_kind: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        by_kind.setdefault(prompt.kind, []).append(prompt)
    longest = max(len(group) for group in by_kind.values())
    mixed = [group[place] for place in range(longest) for group in by_kind.values() if place < len(group)]
    number = int(set_id.rsplit("-s", 1)[1])
    return mixed[number * k : (number + 1) * k]


def request_of(
    ctx: StageContext, sample: Sample, render: RenderRecord, prompts: list[Prompt], appearance: str | None = None
) -> SetRequest:
    """Everything the generator needs for one set: from the rendered views, or without any from the words."""
    section = ctx.recipe.generate
    texts = tuple(_told(section, prompt) for prompt in prompts)
    seeds = tuple(_seed(ctx, render.set_id, index) for index in range(len(prompts)))
    if not render.views:
        subject = appearance if section.mask_words == "appearance" and appearance else render.category
        return SetRequest(prompts=texts, seeds=seeds, subject=subject)
    depths, masks, cameras = [], [], []
    for index, view in enumerate(render.views):
        depths.append(decode_depth16(sample.files[f"{index}.depth.png"], view.near, view.far))
        masks.append(decode_mask(sample.files[f"{index}.mask.png"]))
        cameras.append(Camera.from_dict(view.camera))
    correspondences: dict[tuple[int, int], Correspondence] | None = None
    if section.warp != "none":
        correspondences = {
            (target, source): correspond(
                depths[target],
                cameras[target],
                depths[source],
                cameras[source],
                grid=section.correspondence_grid,
                tolerance=ctx.recipe.render.tolerance,
            )
            for target in range(len(depths))
            for source in range(len(depths))
            if target != source
        }
    conditions = [inverse_depth_condition(depth, mask) for depth, mask in zip(depths, masks, strict=True)]
    return SetRequest(
        prompts=texts,
        seeds=seeds,
        depth=np.stack(conditions) if section.depth else None,
        masks=np.stack(masks),
        correspondences=correspondences,
    )


def _told(section: Generate, prompt: Prompt) -> str:
    """What the model is told: the appearance of an object without mesh is no part of the prompt that is published."""
    return prompt.detailed if section.appearance and prompt.detailed else prompt.text


def _record(
    ctx: StageContext, render: RenderRecord, prompts: list[Prompt], request: SetRequest, written: PromptRecord
) -> GeneratedRecord:
    model = ctx.recipe.models.generator
    shares = {
        f"{target}-{source}": round(float(match.visible.mean()), 6)
        for (target, source), match in (request.correspondences or {}).items()
    }
    return GeneratedRecord(
        set_id=render.set_id,
        object_id=render.object_id,
        split=render.split,
        category=render.category,
        caption=written.caption,
        appearance=written.appearance,
        licence=render.licence,
        mesh_sha256=render.mesh_sha256,
        model=f"{model.name}@{model.revision}",
        settings=ctx.recipe.generate.model_dump(mode="json", exclude={"max_failed_fraction", "shard_size"}),
        correspondence_share=shares,
        samples=sample_records(ctx, render.set_id, prompts),
    )


def sample_records(ctx: StageContext, set_id: str, prompts: list[Prompt]) -> list[SampleRecord]:
    """How each image of a set comes to be: its prompt, what the model is told, and its seed."""
    settings = settings_of(ctx)
    return [
        SampleRecord(
            sample_id=sample_id_of(set_id, index),
            index=index,
            prompt=prompt.text,
            prompt_kind=prompt.kind,
            prompt_sent=settings.told(_told(ctx.recipe.generate, prompt)),
            facts=prompt.facts,
            seed=_seed(ctx, set_id, index),
        )
        for index, prompt in enumerate(prompts)
    ]


def _seed(ctx: StageContext, set_id: str, index: int) -> int:
    return seed_for(ctx.recipe.seed, "generate", sample_id_of(set_id, index))


def _files(sample: Sample, request: SetRequest, made: ImageSet) -> dict[str, bytes]:
    files = {}
    for index, (image, mask) in enumerate(zip(made.images, made.masks, strict=True)):
        files[f"{index}.png"] = encode_png(image)
        files[f"{index}.mask.png"] = sample.files.get(f"{index}.mask.png") or encode_png(mask)
        if request.depth is not None:
            files[f"{index}.depth.png"] = encode_png((request.depth[index] * 255).round().astype(np.uint8))
    return files


def finalize(ctx: StageContext, index: ShardIndex, out_dir: Path) -> dict[str, Any]:
    images = 0
    visible = []
    for sample in read_records(out_dir, index):
        images += len(sample.record["samples"])
        visible += list(sample.record["correspondence_share"].values())
    share = round(float(np.mean(visible)), 4) if visible else None
    return {"sets": len(index.keys), "images": images, "mean_correspondence_share": share}
