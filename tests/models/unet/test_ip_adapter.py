from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file

from models.unet.ip_adapter import image_layers, image_projections, install_ip_adapter, published, set_scale

torch.set_num_threads(1)


def test_what_was_loaded_is_written_as_it_was_published(folder: Path) -> None:
    tensors = load_file(folder / "ip_adapter" / "ip-adapter-plus.safetensors")
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    resampler = install_ip_adapter(unet, tensors)
    written = published(image_projections(unet), resampler)
    assert written.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(written[name], tensor), name


def test_image_projections_are_those_of_cross_attention_in_the_published_order(folder: Path) -> None:
    tensors = load_file(folder / "ip_adapter" / "ip-adapter-plus.safetensors")
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    install_ip_adapter(unet, tensors)
    named = image_projections(unet)
    assert len(image_layers(unet)) == sum("attn2" in name for name in unet.attn_processors)
    for name, weight in named.items():
        assert torch.equal(weight, tensors[name]), name
    set_scale(unet, 0.25)
    assert {tuple(processor.scale) for processor in image_layers(unet).values()} == {(0.25,)}
