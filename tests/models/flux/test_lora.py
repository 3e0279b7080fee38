import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FluxControlPipeline, FluxPipeline, FluxTransformer2DModel
from safetensors import safe_open

from models.flux.customizer import TARGETS
from models.flux.layout import image_ids, text_ids
from models.header import FILE_NAME
from models.lora import (
    add_lora,
    canonical_safetensors,
    load_lora,
    lora_file,
    lora_state,
    read_metadata,
    set_lora_state,
    trained_parameters,
)

torch.set_num_threads(1)
Folder = Callable[[bool, bool], Path]
METADATA = {"dataset": "d" * 64, "step": "7"}


def transformer_of(folder: Path) -> FluxTransformer2DModel:
    return FluxTransformer2DModel.from_pretrained(folder / "transformer")


def trained(folder: Path, targets: str = "attention") -> FluxTransformer2DModel:
    transformer = transformer_of(folder)
    add_lora(transformer, 3, TARGETS[targets], seed=0)
    generator = torch.Generator().manual_seed(1)
    for parameter in trained_parameters(transformer).values():
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator)
    return transformer


def output(transformer: FluxTransformer2DModel) -> torch.Tensor:
    channels = transformer.config.in_channels
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        return transformer(
            hidden_states=torch.randn(1, 4, channels, generator=generator),
            encoder_hidden_states=torch.randn(1, 3, 16, generator=generator),
            pooled_projections=torch.randn(1, 12, generator=generator),
            timestep=torch.tensor([0.4]),
            img_ids=image_ids(2, 2),
            txt_ids=text_ids(3),
        ).sample


@pytest.mark.parametrize("targets", ["attention", "attention_feedforward"])
@pytest.mark.parametrize(("takes_depth", "pipeline"), [(False, FluxPipeline), (True, FluxControlPipeline)])
def test_diffusers_load_lora_weights_reads_the_file_and_gives_the_same_output(
    flux_folder: Folder, tmp_path: Path, takes_depth: bool, pipeline: type, targets: str
) -> None:
    folder = flux_folder(takes_depth, False)
    ours = trained(folder, targets)
    (tmp_path / FILE_NAME).write_bytes(lora_file(ours, "transformer", METADATA))
    base = transformer_of(folder)
    before = output(base)
    parts = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
    loaded = pipeline(transformer=base, **dict.fromkeys(parts))
    loaded.load_lora_weights(tmp_path)
    torch.testing.assert_close(output(loaded.transformer), output(ours))
    assert not torch.allclose(output(loaded.transformer), before, atol=1e-3)


def test_load_lora_gives_the_same_output_and_the_metadata(flux_folder: Folder, tmp_path: Path) -> None:
    ours = trained(flux_folder(True, False))
    path = tmp_path / FILE_NAME
    path.write_bytes(lora_file(ours, "transformer", METADATA))
    other = transformer_of(flux_folder(True, False))
    metadata = load_lora(other, "transformer", path)
    torch.testing.assert_close(output(other), output(ours))
    assert METADATA.items() <= metadata.items() <= read_metadata(path).items()
    assert not any(parameter.requires_grad for parameter in other.parameters())


def test_the_chosen_layers_are_adapted(flux_folder: Folder) -> None:
    def layers(targets: str) -> set[str]:
        return {name.split(".lora_")[0] for name in trained_parameters(trained(flux_folder(True, False), targets))}

    attention = layers("attention")
    assert "transformer_blocks.0.attn.to_out.0" in attention
    assert "transformer_blocks.1.attn.add_q_proj" in attention
    assert "single_transformer_blocks.0.attn.to_v" in attention
    assert all(".attn." in name for name in attention)
    extra = layers("attention_feedforward") - attention
    assert {name.split(".", 2)[2] for name in extra} == {
        "ff.net.0.proj",
        "ff.net.2",
        "ff_context.net.0.proj",
        "ff_context.net.2",
    }


def test_a_fresh_lora_changes_nothing_and_follows_its_seed(flux_folder: Folder) -> None:
    folder = flux_folder(True, False)
    base, ours, same, other = (transformer_of(folder) for _ in range(4))
    before = output(base)
    for transformer, seed in ((ours, 5), (same, 5), (other, 6)):
        torch.manual_seed(123 + seed)
        state = torch.get_rng_state()
        add_lora(transformer, 3, TARGETS["attention"], seed)
        assert torch.equal(torch.get_rng_state(), state), "the global generator is left as it was"
    torch.testing.assert_close(output(ours), before)
    assert lora_file(ours, "transformer", {}) == lora_file(same, "transformer", {})
    assert lora_file(ours, "transformer", {}) != lora_file(other, "transformer", {})


def test_a_bfloat16_base_is_trained_with_float32_adapters(flux_folder: Folder) -> None:
    transformer = transformer_of(flux_folder(True, False)).to(torch.bfloat16)
    add_lora(transformer, 2, TARGETS["attention"], 0)
    assert {parameter.dtype for parameter in trained_parameters(transformer).values()} == {torch.float32}


def test_state_goes_out_and_in(flux_folder: Folder) -> None:
    ours, other = trained(flux_folder(True, False)), transformer_of(flux_folder(True, False))
    add_lora(other, 3, TARGETS["attention"], 9)
    set_lora_state(other, lora_state(ours))
    assert lora_file(other, "transformer", {}) == lora_file(ours, "transformer", {})
    wider = transformer_of(flux_folder(True, False))
    add_lora(wider, 3, TARGETS["attention_feedforward"], 9)
    with pytest.raises(ValueError, match=r"LoRA weights do not fit: .* rank or targets changed"):
        set_lora_state(wider, lora_state(ours))


def test_the_header_is_in_sorted_order_and_the_file_still_reads(tmp_path: Path) -> None:
    """safetensors itself writes the metadata in an order that differs between processes."""
    path = tmp_path / "x.safetensors"
    tensors = {"b": torch.arange(3.0), "a": torch.ones(2, 2, dtype=torch.bfloat16)}
    metadata = {name: name.upper() for name in ("step", "format", "recipe", "dataset", "model", "code")}
    path.write_bytes(canonical_safetensors(tensors, metadata))
    with safe_open(path, framework="pt") as opened:
        assert opened.metadata() == metadata
        for name, tensor in tensors.items():
            assert torch.equal(opened.get_tensor(name), tensor)
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert list(header) == ["__metadata__", "a", "b"]
    assert list(header["__metadata__"]) == sorted(metadata)


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no\.safetensors: no such checkpoint; train one first"):
        read_metadata(tmp_path / "no.safetensors")


def test_without_a_lora_there_is_nothing_to_train(flux_folder: Folder) -> None:
    transformer = transformer_of(flux_folder(True, False)).requires_grad_(False)
    with pytest.raises(ValueError, match="call add_lora first"):
        trained_parameters(transformer)
    assert np.isfinite(output(transformer).numpy()).all()
