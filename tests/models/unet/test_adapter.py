import json
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors import safe_open
from tiny_unet import picture, pipeline_of, trained

from models import header, lora
from models.unet import adapter
from models.unet.customizer import UNetCustomizer
from models.unet.ip_adapter import image_projections

torch.set_num_threads(1)
METADATA = {"dataset": "d" * 64, "step": "7"}


@torch.no_grad()
def output(model: UNetCustomizer) -> torch.Tensor:
    noisy = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    tokens = model.resampler(model.encode_appearance([picture(1)]))
    return model.velocity(noisy, torch.tensor([400]), model.encode_prompts(["a red mug"]), tokens)


def test_diffusers_loads_both_halves_of_the_one_file_and_gives_the_same_output(folder: Path, tmp_path: Path) -> None:
    ours = trained(folder)
    file = tmp_path / header.FILE_NAME
    file.write_bytes(ours.adapter_file(METADATA))
    pipeline = pipeline_of(folder)
    pipeline.unload_ip_adapter()
    pipeline.load_ip_adapter(tmp_path, subfolder="", weight_name=file.name, image_encoder_folder=None)
    pipeline.set_ip_adapter_scale(0.6)
    before = output_of(pipeline, ours)
    pipeline.load_lora_weights(adapter.lora_weights(file))
    after = output_of(pipeline, ours)
    torch.testing.assert_close(after, output(ours))
    assert not torch.allclose(before, after, atol=1e-3)


def test_a_unet_alone_reads_its_lora_from_the_whole_file(folder: Path, tmp_path: Path) -> None:
    ours = trained(folder)
    (tmp_path / header.FILE_NAME).write_bytes(ours.adapter_file(METADATA))
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    unet.load_lora_adapter(tmp_path, prefix="unet", weight_name=header.FILE_NAME)
    own = lora.lora_state(ours.unet)
    loaded = {name.replace(".default_0.", ".").replace(".default.", "."): w for name, w in unet.named_parameters()}
    for name, tensor in own.items():
        assert torch.equal(loaded[name], tensor), name


@torch.no_grad()
def output_of(pipeline: object, ours: UNetCustomizer) -> torch.Tensor:
    noisy = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    text = ours.encode_prompts(["a red mug"])
    added = {"image_embeds": [ours.encode_appearance([picture(1)])[:, None]]}
    if ours.sdxl:
        added |= {"text_embeds": text.pooled, "time_ids": torch.tensor([[16.0, 16, 0, 0, 16, 16]])}
    return pipeline.unet(noisy, torch.tensor([400]), text.sequence, added_cond_kwargs=added).sample


def test_the_file_is_canonical_and_names_its_metadata(folder: Path, tmp_path: Path) -> None:
    data = trained(folder).adapter_file(METADATA)
    assert data == trained(folder).adapter_file(METADATA)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert list(header) == sorted(header)
    (tmp_path / "x.safetensors").write_bytes(data)
    with safe_open(tmp_path / "x.safetensors", framework="pt") as opened:
        assert METADATA.items() <= opened.metadata().items()
        assert {name.split(".")[0] for name in opened.offset_keys()} == {"unet", "image_proj", "ip_adapter"}


def test_load_adapter_gives_the_same_output_and_the_metadata(folder: Path, tmp_path: Path) -> None:
    ours = trained(folder)
    file = tmp_path / header.FILE_NAME
    file.write_bytes(ours.adapter_file(METADATA))
    other = UNetCustomizer.from_pretrained(folder, "cpu", torch.float32)
    base = output(other)
    assert METADATA.items() <= other.load_adapter(file).items()
    torch.testing.assert_close(output(other), output(ours))
    assert not torch.allclose(output(ours), base, atol=1e-3)
    with other.without_adapter():
        torch.testing.assert_close(output(other), base)
    torch.testing.assert_close(output(other), output(ours))


def test_self_attention_and_image_projections_are_trained_and_nothing_else(folder: Path) -> None:
    model = trained(folder)
    names = set(model.adapter_parameters())
    images = {id(weight) for weight in image_projections(model.unet).values()}
    lora_names = {name for name in names if id(model.adapter_parameters()[name]) not in images}
    assert len(images) + len(lora_names) == len(names)
    layers = {name.split(".lora_")[0] for name in lora_names}
    attention = {name.removesuffix(".processor") for name in model.unet.attn_processors if "attn1" in name}
    assert layers == {f"{name}.{part}" for name in attention for part in ("to_q", "to_k", "to_v", "to_out.0")}


def test_a_fresh_adapter_changes_nothing_and_is_float32_on_a_bfloat16_base(folder: Path) -> None:
    model = UNetCustomizer.from_pretrained(folder, "cpu", torch.float32)
    before = output(model)
    model.add_adapter(3, "self_attention", seed=5)
    assert torch.equal(output(model), before)
    half = UNetCustomizer.from_pretrained(folder, "cpu", torch.bfloat16)
    half.add_adapter(3, "self_attention", seed=5)
    assert {parameter.dtype for parameter in half.adapter_parameters().values()} == {torch.float32}
    with pytest.raises(ValueError, match="lora_targets is 'attention'; a U-Net allows self_attention"):
        model.add_adapter(3, "attention", seed=5)


def test_state_goes_out_and_in(folder: Path) -> None:
    ours = trained(folder)
    other = UNetCustomizer.from_pretrained(folder, "cpu", torch.float32)
    other.add_adapter(3, "self_attention", seed=9)
    other.set_adapter_state(ours.adapter_state())
    assert other.adapter_file({}) == ours.adapter_file({})
    state = ours.adapter_state()
    del state["ip_adapter.1.to_k_ip.weight"]
    with pytest.raises(ValueError, match=r"image projections do not fit: ip_adapter\.1\.to_k_ip\.weight"):
        other.set_adapter_state(state)
