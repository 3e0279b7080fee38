"""What is customized in an evaluation: an object with its references and prompts, from the held-out ones."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data.assets.captions import head_noun
from data.ids import object_of, seed_for
from data.images import decode_mask, decode_png
from data.records import Prompt, PromptRecord, RenderRecord
from data.shards import Sample, ShardWriter
from data.stage import ShardSpec, StageContext
from models.evaluation.tables import KINDS
from models.miniature.scenes import SCENES, composite, paint_scene, scene_phrase

GREY = 128


@dataclass(frozen=True, eq=False)
class Subject:
    """An object to customize: references uint8 (H, W, 3) with masks bool (H, W), prompts of both kinds."""

    record: PromptRecord
    references: tuple[np.ndarray, ...]
    masks: tuple[np.ndarray, ...]
    phrase: str
    """What the detector looks for."""

    @property
    def id(self) -> str:
        return self.record.object_id

    @property
    def prompts(self) -> list[Prompt]:
        return self.record.prompts


def held_out(ctx: StageContext, spec: ShardSpec, out: ShardWriter) -> Iterator[Subject]:
    """The objects of the shard with enough references and prompts; the others are recorded as failed."""
    section = ctx.recipe.evaluate
    wanted = max(*section.references, section.identity_references)
    keys = set(spec.keys)
    sets: dict[str, list[Sample]] = {}
    for sample in ctx.read("render", [key for key in ctx.index("render").keys if object_of(key) in keys]):
        sets.setdefault(sample.record["object_id"], []).append(sample)
    prompts = {sample.key: PromptRecord.model_validate(sample.record) for sample in ctx.read("prompts", spec.keys)}
    for key in spec.keys:
        views = [(sample, place) for sample in sets.get(key, []) for place in range(len(_rendered(sample).views))][
            :wanted
        ]
        record = prompts.get(key)
        chosen = [prompt for prompt in record.prompts if prompt.kind in KINDS] if record else []
        without = [prompt.text for prompt in chosen if not prompt.facts]
        if len(views) < wanted:
            out.fail(
                key,
                "too_few_views",
                f"{len(views)} rendered views; the rows and identity need {wanted}",
            )
        elif record is None or not chosen:
            out.fail(key, "no_prompts", f"the prompts stage has none of kind {' or '.join(KINDS)} for it")
        elif section.text_metric == "clip_facts" and without:
            out.fail(key, "no_facts", f"clip_facts needs facts and {without[0]!r} has none; use clip_score or tifa")
        else:
            scenes = _scenes_beside([prompt.text for prompt in chosen])
            pictures = [_reference(ctx, sample, place, scenes) for sample, place in views]
            yield Subject(
                record.model_copy(update={"prompts": chosen}),
                tuple(picture for picture, _ in pictures),
                tuple(mask for _, mask in pictures),
                section.phrases.get(key) or record.category or head_noun(record.caption),
            )


def _rendered(sample: Sample) -> RenderRecord:
    return RenderRecord.model_validate(sample.record)


def _scenes_beside(prompts: Sequence[str]) -> list[str]:
    """Scenes that no prompt names: a copied reference must not show what a prompt asks for."""
    return [scene for scene in SCENES if not any(scene_phrase(scene) in prompt for prompt in prompts)] or list(SCENES)


def _reference(ctx: StageContext, sample: Sample, place: int, scenes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """View `place` of a rendered set on a backdrop, one of `scenes` if it is painted: image and object mask."""
    rgba = decode_png(sample.files[f"{place}.rgb.png"])
    mask = decode_mask(sample.files[f"{place}.mask.png"])
    cover = rgba[..., 3] / 255.0 if rgba.shape[2] == 4 else mask.astype(np.float64)
    if ctx.recipe.evaluate.backdrop == "scenes":
        rng = np.random.default_rng(seed_for(ctx.recipe.seed, "evaluate/backdrop", f"{sample.key}-{place}"))
        scene = paint_scene(scenes[rng.integers(len(scenes))], len(rgba), rng)
        return composite(rgba[..., :3], cover, scene), mask
    blend = cover[..., None] * rgba[..., :3] + (1 - cover[..., None]) * GREY
    return np.rint(blend).astype(np.uint8), mask
