"""What a recipe will need before anything of it has run: keys of every stage, and memory of its models."""

from typing import Any

from configs.schema import Recipe, Runtime
from models.registry import ModelError
from models.sizes import Need, needs, peak

GIB = 2**30
OFFLOADED = {
    "none": "all parts stay",
    "text_encoders": "text encoders come and go (offload)",
    "all": "one part at a time (offload)",
}


def expected_keys(recipe: Recipe, objects: int) -> dict[str, int]:
    """Keys of each stage at most, for that many objects: nothing fails, every object gives all its sets."""
    held_out = round(recipe.assets.eval_share * objects)
    sets = recipe.render.max_sets
    trained = (objects - held_out) * sets
    evaluated = min(held_out, recipe.evaluate.objects) if recipe.evaluate.objects else held_out
    return {
        "assets": objects,
        "prompts": objects,
        "render": objects * sets,
        "generate": trained,
        "score": trained,
        "select": trained,
        "shard": trained,
        "train": 1,
        "evaluate": evaluated,
        "report": 0,
    }


def expected_shards(recipe: Recipe, stage: str, keys: int) -> int:
    """Shards that so many keys are cut into; the sets of an object share a shard of render, a series one of prompts."""
    size = getattr(getattr(recipe, stage), "shard_size", 1)
    if stage == "render":
        size *= recipe.render.max_sets
    if stage == "prompts" and recipe.assets.source == "subjects":
        size = max(recipe.assets.per_kind, size - size % recipe.assets.per_kind)
    return -(-keys // size)


def memory_table(recipe: Recipe, runtime: Runtime) -> list[list[str]]:
    """Header and rows: what the stages with models hold on a device, and the most of it; or why it is not known."""
    rows = [["stage", "memory", "parameters", "GiB"]]
    try:
        found = needs(recipe)
    except ModelError as error:
        return [*rows, ["", f"unknown: {error}", "", ""]]
    for stage in dict.fromkeys(need.stage for need in found):
        own = [need for need in found if need.stage == stage]
        rows += [[stage, need.what, _parameters(need), f"{need.bytes / GIB:.2f}"] for need in own]
        how = "all parts stay" if stage != "generate" else OFFLOADED[runtime.offload]
        rows.append([stage, f"at most, {how}", "", f"{peak(own, runtime.offload) / GIB:.2f}"])
    return rows


def memory_json(recipe: Recipe, runtime: Runtime) -> dict[str, Any]:
    try:
        found = needs(recipe)
    except ModelError as error:
        return {"unknown": str(error)}
    stages = dict.fromkeys(need.stage for need in found)
    return {
        stage: {
            "parts": {need.what: round(need.bytes) for need in found if need.stage == stage},
            "peak": round(peak([need for need in found if need.stage == stage], runtime.offload)),
        }
        for stage in stages
    }


def _parameters(need: Need) -> str:
    return "" if need.parameters is None else f"{need.parameters:,}"
