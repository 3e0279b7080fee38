"""How large models are and what a batch of them needs, from configurations and file headers: no weights are read.

Memory is an estimate: weights exactly, activations by what one transformer block holds at its peak, keys and values of
other images as they are gathered (one layer at a time), and the VAE's last stage. Allocators add to that.
"""

import json
import struct
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from configs.load import CONFIGS
from configs.schema import ModelRef, Recipe
from models import registry

BYTES = {"float32": 4, "bfloat16": 2}
BLOCK_VALUES = 15
"""Values per token and channel that a single-stream block holds at its peak: the residual, its norm, queries, keys and
values (3), the feed-forward part (4), attention output, and both put together (5)."""
DECODER_VALUES = 4
"""Feature maps of the VAE's widest full-resolution stage that are held at once."""
LONGEST_PROMPT = 512
TILE = 512
"""Side of a tile of a tiled decoding, pixels of FLUX."""
CHAT_TOKENS = 700
"""Of an instruction, about."""


@dataclass(frozen=True)
class Part:
    """One network of a model; `config` is empty where only the weights are known."""

    name: str
    parameters: int
    config: dict[str, Any]


@dataclass(frozen=True)
class Need:
    """Bytes of device memory for one purpose of one stage."""

    stage: str
    what: str
    parameters: int | None
    bytes: float


@cache
def architectures() -> dict[str, dict[str, dict[str, Any]]]:
    """configs/architectures.yaml: model -> part -> class, config and number of parameters."""
    return yaml.safe_load((CONFIGS / "architectures.yaml").read_text(encoding="utf-8"))


def parts_of(ref: ModelRef) -> list[Part]:
    """The networks of a model: of a published one from its configuration, else from its files, which must be there."""
    known = architectures().get(ref.name)
    if known:
        return [Part(name, entry["parameters"], entry["config"]) for name, entry in known.items()]
    if registry.served_name(ref):
        return []
    folder = registry.locate(ref)
    found: dict[Path, int] = {}
    for path in sorted(folder.rglob("*.safetensors")):
        found[path.parent] = found.get(path.parent, 0) + _count(path)
    return [Part(_part_name(place, folder), count, _config(place)) for place, count in found.items()]


def _part_name(place: Path, folder: Path) -> str:
    return "model" if place == folder else place.relative_to(folder).as_posix()


def _config(place: Path) -> dict[str, Any]:
    path = place / "config.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _count(path: Path) -> int:
    """Values in a safetensors file, from its header."""
    with path.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    total = 0
    for name, entry in header.items():
        if name != "__metadata__":
            size = 1
            for side in entry["shape"]:
                size *= side
            total += size
    return total


def needs(recipe: Recipe) -> list[Need]:
    """What the prompts, generate and score stages of a recipe need at a time, part by part."""
    return [*_writer_needs(recipe), *_generator_needs(recipe), *_scorer_needs(recipe)]


def peak(needs_of_stage: list[Need], offload: str) -> float:
    """Bytes at the worst moment: what stays, and the largest of what comes and goes.

    `offload` as in the runtime; it concerns the generate stage alone. Parts and what works on them share their first
    word: `transformer`, `transformer: activations`. Text encoders work together.
    """
    staying: dict[str, float] = {}
    visiting: dict[str, float] = {}
    working: dict[str, float] = {}
    for need in needs_of_stage:
        owner, _, rest = need.what.partition(":")
        owner = owner.removesuffix("_2")
        moved = need.stage == "generate" and (offload == "all" or (offload != "none" and owner == "text_encoder"))
        target = working if rest else visiting if moved else staying
        target[owner] = target.get(owner, 0) + need.bytes
    moments = [visiting.get(owner, 0) + working.get(owner, 0) for owner in visiting | working]
    return sum(staying.values()) + max(moments, default=0)


def _writer_needs(recipe: Recipe) -> list[Need]:
    ref, section = recipe.models.writer, recipe.prompts
    if ref is None or section.writer != "transformers":
        return []
    size, parts = BYTES[section.dtype], parts_of(ref)
    found = [Need("prompts", part.name, part.parameters, part.parameters * size) for part in parts]
    config = parts[0].config if parts else {}
    if "num_key_value_heads" in config:
        head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        per_token = 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * head * size
        tokens = section.batch_chats * (CHAT_TOKENS + section.max_new_tokens)
        found.append(Need("prompts", f"{parts[0].name}: keys and values", None, tokens * per_token))
    return found


def _scorer_needs(recipe: Recipe) -> list[Need]:
    """Scorers are in float32, and all of them stay; the head of the quality score has a few layers only."""
    refs = {role: getattr(recipe.models, role) for role in ("clip", "identity")}
    return [
        Need("score", f"{role} {part.name}", part.parameters, part.parameters * BYTES["float32"])
        for role, ref in refs.items()
        for part in parts_of(ref)
    ]


def _generator_needs(recipe: Recipe) -> list[Need]:
    section, size = recipe.generate, BYTES[recipe.generate.dtype]
    parts = {part.name: part for part in parts_of(recipe.models.generator)}
    found = [Need("generate", part.name, part.parameters, part.parameters * size) for part in parts.values()]
    if "transformer" not in parts or "vae" not in parts:
        return found
    transformer, vae = parts["transformer"].config, parts["vae"].config
    side = recipe.render.resolution // (2 ** len(vae["block_out_channels"]))
    tokens, text = side * side, _text_tokens(recipe.models.generator)
    channels = transformer["num_attention_heads"] * transformer["attention_head_dim"]
    images = section.batch_sets * recipe.render.views_per_set * (2 if section.true_cfg_scale > 1 else 1)
    found.append(
        Need(
            "generate",
            "transformer: activations",
            None,
            images * (tokens + text) * channels * BLOCK_VALUES * size,
        )
    )
    if section.msa:
        others = (recipe.render.views_per_set - 1) * tokens
        gathered = images * (2 * others + tokens + text) * 2 * channels * size
        found.append(Need("generate", "transformer: shared keys and values", None, gathered))
    side_decoded = min(recipe.render.resolution, TILE) if section.vae_tiling else recipe.render.resolution
    pixels = recipe.render.views_per_set * side_decoded**2
    found.append(Need("generate", "vae: decoding", None, pixels * vae["block_out_channels"][1] * DECODER_VALUES * size))
    return found


def _text_tokens(ref: ModelRef) -> int:
    if ref.name in architectures():
        return LONGEST_PROMPT
    path = registry.locate(ref) / "tokenizer_2" / "tokenizer_config.json"
    return int(json.loads(path.read_text(encoding="utf-8"))["model_max_length"])
