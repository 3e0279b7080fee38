"""The published architectures on the meta device: what the code expects of them, and what the estimates say."""

import importlib
from typing import Any

import pytest
import torch
from torch import nn

from configs.load import load_recipe
from models import registry
from models.flux.customizer import TARGETS
from models.flux.processor import SharedAttnProcessor
from models.sizes import Need, architectures, needs, parts_of, peak

PARTS = [(model, part) for model, parts in architectures().items() for part in parts]


def on_meta(model: str, part: str) -> nn.Module:
    entry = architectures()[model][part]
    package, name = entry["class"].split(".")
    kind: Any = getattr(importlib.import_module(package), name)
    with torch.device("meta"):
        return kind(**entry["config"]) if package == "diffusers" else kind(kind.config_class(**entry["config"]))


@pytest.mark.parametrize(("model", "part"), PARTS)
def test_the_number_of_parameters_is_that_of_the_class(model: str, part: str) -> None:
    count = sum(weight.numel() for weight in on_meta(model, part).parameters())
    assert count == architectures()[model][part]["parameters"]


@pytest.mark.parametrize("model", ["flux-dev", "flux-depth-dev"])
def test_flux_takes_the_processors_and_the_lora(model: str) -> None:
    transformer = on_meta(model, "transformer")
    attention = {name.removesuffix(".processor") for name in transformer.attn_processors}
    assert attention == {f"transformer_blocks.{block}.attn" for block in range(19)} | {
        f"single_transformer_blocks.{block}.attn" for block in range(38)
    }
    transformer.set_attn_processor(SharedAttnProcessor())
    layers = {name for name, module in transformer.named_modules() if isinstance(module, nn.Linear)}
    for targets in TARGETS.values():
        for target in targets:
            assert any(name.endswith(f".{target}") for name in layers), target
    vae = on_meta(model, "vae")
    channels = 4 * vae.config.latent_channels
    assert transformer.config.in_channels == channels * (2 if "depth" in model else 1)
    assert 2 * 2 ** (len(vae.config.block_out_channels) - 1) == 16, "pixels a token"


def test_estimates_of_the_production_recipes() -> None:
    rigid = {need.what: need for need in needs(load_recipe("flux-rigid")) if need.stage == "generate"}
    assert rigid["transformer"].bytes == 2 * 11_901_604_928
    # 3 images and their negatives, 32 x 32 tokens and 512 of text, 3072 channels, 15 values of 2 bytes.
    assert rigid["transformer: activations"].bytes == 6 * (1024 + 512) * 3072 * 15 * 2
    # Own keys and values, and those of two other images twice: gathered, and put behind the own ones.
    assert rigid["transformer: shared keys and values"].bytes == 6 * (2 * 2048 + 1536) * 2 * 3072 * 2
    deformable = {need.what: need for need in needs(load_recipe("flux-deformable")) if need.stage == "generate"}
    assert deformable["transformer: activations"].bytes == 3 * (4096 + 512) * 3072 * 15 * 2
    writer = {need.what: need for need in needs(load_recipe("flux-rigid")) if need.stage == "prompts"}
    assert writer["model"].parameters == 8_030_261_248
    # 32 layers, 8 heads of 128, keys and values of 2 bytes for 16 chats.
    assert writer["model: keys and values"].bytes == 16 * (700 + 2048) * 32 * 8 * 128 * 2 * 2


def test_without_sharing_there_are_no_shared_keys() -> None:
    found = needs(load_recipe("flux-rigid", ("generate.msa=false",)))
    assert not any("shared" in need.what for need in found)


def test_the_miniature_is_counted_from_its_files() -> None:
    recipe = load_recipe("miniature")
    model = registry.load(recipe.models.generator, "cpu", "float32")
    counted = {part.name: part.parameters for part in parts_of(recipe.models.generator)}
    assert counted == {
        name: sum(weight.numel() for weight in getattr(model, name).parameters())
        for name in ("transformer", "vae", "text_encoder", "text_encoder_2")
    }
    assert {need.what for need in needs(recipe)} > {"transformer: activations", "vae: decoding"}


def test_the_peak_is_the_sum_of_weights_or_with_offload_the_worst_part() -> None:
    found = [
        Need("generate", "transformer", 1, 10.0),
        Need("generate", "vae", 1, 2.0),
        Need("generate", "text_encoder", 1, 1.5),
        Need("generate", "text_encoder_2", 1, 20.0),
        Need("generate", "transformer: activations", None, 3.0),
        Need("generate", "transformer: shared keys and values", None, 1.0),
        Need("generate", "vae: decoding", None, 13.5),
    ]
    assert peak(found, "none") == 33.5 + 13.5
    assert peak(found, "text_encoders") == 12.0 + 21.5, "both text encoders are at work beside the others"
    assert peak(found, "all") == 21.5
    assert peak([], "all") == 0
    assert peak([Need("prompts", "model", 1, 5.0), Need("prompts", "model: keys", None, 1.0)], "all") == 6.0
