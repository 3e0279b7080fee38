"""Records as the real stages write them, of objects that do not exist: real sizes and types, made without any model."""

import hashlib
from typing import Any

from configs.schema import Recipe
from data.ids import sample_id_of, seed_for, set_id_of

Record = dict[str, Any]
CATEGORY_COUNT = 1200
"""Categories of LVIS, roughly."""
LICENCES = ("CC-BY-4.0", "CC0-1.0")
KINDS = ("scene", "other_object")


def object_id_of(number: int) -> str:
    return f"object-{number:09d}"


def number_of(object_id: str) -> int:
    return int(object_id.rpartition("-")[2])


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _category(object_id: str) -> str:
    return f"category {number_of(object_id) % CATEGORY_COUNT}"


def _caption(object_id: str) -> str:
    return f"a wooden {_category(object_id)} with carved legs and a worn blue seat"


def _licence(object_id: str) -> str:
    return LICENCES[number_of(object_id) % len(LICENCES)]


def asset(object_id: str, held_out: bool) -> Record:
    return {
        "object_id": object_id,
        "split": "eval" if held_out else "train",
        "category": _category(object_id),
        "caption": _caption(object_id),
        "licence": _licence(object_id),
        "source": "objaverse",
        "uri": f"objaverse://{object_id}",
        "source_sha256": _sha256(object_id),
        "source_format": "glb",
        "side_files": {},
        "outcome": "found",
        "mesh_sha256": _sha256(f"{object_id}.glb"),
        "attributes": {"author": f"author {number_of(object_id) % 9000}", "title": _caption(object_id)},
    }


def prompts(asset_record: Record, recipe: Recipe) -> Record:
    own = {name: asset_record[name] for name in ("object_id", "split", "category", "caption")}
    count = (recipe.prompts.scenes + recipe.prompts.other_object) // len(KINDS)
    return {
        **own,
        "appearance": None,
        "writer": f"{recipe.prompts.writer}",
        "prompts": [
            {"text": _prompt(own["object_id"], kind, place), "detailed": None, "kind": kind, "facts": []}
            for kind in KINDS
            for place in range(count)
        ],
        "rejected": [],
    }


def _prompt(object_id: str, kind: str, place: int) -> str:
    where = (number_of(object_id) * 31 + place) % 100_003
    return f"{_caption(object_id)} beside thing {where} in {kind.replace('_', ' ')} {place}, late light from the left"


def render(asset_record: Record, number: int, recipe: Recipe) -> Record:
    own = {name: asset_record[name] for name in ("object_id", "split", "category", "licence", "mesh_sha256")}
    count = recipe.render.views_per_set
    view = {
        "camera": {
            "rotation": [[0.812345, -0.401234, 0.423456], [0.0, 0.725678, 0.688012], [-0.583456, -0.559012, 0.589123]],
            "translation": [0.0, 0.012345, 2.845678],
            "intrinsics": [[624.123456, 0.0, 256.0], [0.0, 624.123456, 256.0], [0.0, 0.0, 1.0]],
            "size": [recipe.render.resolution, recipe.render.resolution],
        },
        "near": 1.912345,
        "far": 3.812345,
        "area": 0.238765,
        "azimuth_deg": 123.456789,
        "elevation_deg": 34.567891,
    }
    return {
        **own,
        "set_id": set_id_of(own["object_id"], number),
        "views": [view] * count,
        "overlaps": {f"{first}-{second}": 0.412345 for second in range(count) for first in range(second)},
    }


def generated(render_record: Record, prompt_record: Record, recipe: Recipe, settings: Record) -> Record:
    own = {name: render_record[name] for name in ("set_id", "object_id", "split", "category", "licence", "mesh_sha256")}
    set_id, model = own["set_id"], recipe.models.generator
    count, first = len(render_record["views"]), int(set_id.rpartition("-s")[2]) * len(render_record["views"])
    written = prompt_record["prompts"]
    pairs = [f"{target}-{source}" for target in range(count) for source in range(count) if target != source]
    return {
        **own,
        "caption": prompt_record["caption"],
        "appearance": None,
        "model": f"{model.name}@{model.revision}",
        "settings": settings,
        "correspondence_share": dict.fromkeys(pairs, 0.512345),
        "samples": [
            {
                "sample_id": sample_id_of(set_id, index),
                "index": index,
                "prompt": written[(first + index) % len(written)]["text"],
                "prompt_kind": written[(first + index) % len(written)]["kind"],
                "prompt_sent": f"{written[(first + index) % len(written)]['text']} It stands on the ground.",
                "facts": [],
                "seed": seed_for(recipe.seed, "generate", sample_id_of(set_id, index)),
            }
            for index in range(count)
        ],
    }


def settings_of(recipe: Recipe) -> Record:
    """What every generated record of this recipe says of how it was made."""
    return recipe.generate.model_dump(mode="json", exclude={"max_failed_fraction", "shard_size"})


def scores(generated_record: Record) -> Record:
    """The first set of every tenth object is one whose images do not look alike."""
    set_id, count = generated_record["set_id"], len(generated_record["samples"])
    alike = 0.412345 if number_of(generated_record["object_id"]) % 10 == 0 and set_id.endswith("-s0") else 0.812345
    image = {
        "quality": 6.512345,
        "identity": alike,
        "identity_masked": alike,
        "clip_image": 0.712345,
        "clip_text": 0.312345,
        "background": 0.212345,
        "saturation": 0.412345,
        "clipped": 0.012345,
        "area": 0.238765,
        "cut_off": 0.0,
    }
    pairs = [[1.0 if one == two else alike for two in range(count)] for one in range(count)]
    return {
        "set_id": set_id,
        "object_id": generated_record["object_id"],
        "licence": generated_record["licence"],
        "images": [image] * count,
        "identity_pairs": pairs,
        "background_pairs": pairs,
        "hashes": [_sha256(f"{set_id}-{index}")[:16] for index in range(count)],
    }


def decision(score_record: Record, recipe: Recipe) -> Record:
    identity, threshold = score_record["images"][0]["identity"], recipe.select.min_identity
    kept = identity >= threshold
    reasons = [] if kept else [{"code": "low_identity", "value": identity, "threshold": threshold}]
    small = [{"code": "set_too_small", "value": 0, "threshold": recipe.select.min_images}]
    return {
        "set_id": score_record["set_id"],
        "object_id": score_record["object_id"],
        "kept": kept,
        "images": [{"kept": kept, "identity": identity, "reasons": reasons} for _ in score_record["images"]],
        "reasons": [] if kept else small,
        "duplicate_of": None,
    }


def published(
    generated_record: Record, score_record: Record, asset_record: Record, thresholds: dict[str, float]
) -> Record:
    names = ("set_id", "object_id", "split", "category", "caption", "appearance", "model", "settings")
    origin = ("source", "uri", "licence", "source_sha256", "mesh_sha256")
    images = zip(generated_record["samples"], score_record["images"], strict=True)
    return {
        **{name: generated_record[name] for name in names},
        "asset": {name: asset_record[name] for name in origin},
        "samples": [{**sample, "scores": image} for sample, image in images],
        "dropped": [],
        "identity_pairs": score_record["identity_pairs"],
        "thresholds": thresholds,
    }
