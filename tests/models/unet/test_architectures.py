"""The published U-Nets on the meta device take the processors, the LoRA and the published IP-Adapter Plus."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from configs.load import load_recipe
from models.sizes import architectures
from models.unet.adapter import SELF_ATTENTION
from models.unet.ip_adapter import image_projections, install_ip_adapter
from models.unet.reference import install

SDXL_LAYERS = {
    **{f"down_blocks.1.attentions.{block}": 2 for block in range(2)},
    **{f"down_blocks.2.attentions.{block}": 10 for block in range(2)},
    **{f"up_blocks.0.attentions.{block}": 10 for block in range(3)},
    **{f"up_blocks.1.attentions.{block}": 2 for block in range(3)},
    "mid_block.attentions.0": 10,
}
SD_LAYERS = {
    **{f"down_blocks.{level}.attentions.{block}": 1 for level in range(3) for block in range(2)},
    **{f"up_blocks.{level}.attentions.{block}": 1 for level in (1, 2, 3) for block in range(3)},
    "mid_block.attentions.0": 1,
}


def published(width: int, out: int, inner: int, layers: list[tuple[int, int]]) -> dict[str, Tensor]:
    """Shapes of the published files: 16 tokens, ViT-H's 1280 channels, 4 blocks; keys and values (channels, out)."""
    shapes = {"latents": (1, 16, width), "proj_in.weight": (width, 1280), "proj_in.bias": (width,)}
    shapes |= {"proj_out.weight": (out, width), "proj_out.bias": (out,)}
    shapes |= {"norm_out.weight": (out,), "norm_out.bias": (out,)}
    for block in range(4):
        for norm in ("0.norm1", "0.norm2", "1.0"):
            shapes |= {f"layers.{block}.{norm}.{part}": (width,) for part in ("weight", "bias")}
        shapes[f"layers.{block}.0.to_q.weight"] = (inner, width)
        shapes[f"layers.{block}.0.to_kv.weight"] = (2 * inner, width)
        shapes[f"layers.{block}.0.to_out.weight"] = (width, inner)
        shapes[f"layers.{block}.1.1.weight"] = (4 * width, width)
        shapes[f"layers.{block}.1.3.weight"] = (width, 4 * width)
    tensors = {f"image_proj.{name}": torch.empty(shape, device="meta") for name, shape in shapes.items()}
    number = 1
    for channels, count in layers:
        for _ in range(count):
            for part in ("to_k_ip", "to_v_ip"):
                tensors[f"ip_adapter.{number}.{part}.weight"] = torch.empty(channels, out, device="meta")
            number += 2
    return tensors


@pytest.mark.parametrize(
    ("model", "layers", "adapter"),
    [
        ("sdxl-v", SDXL_LAYERS, (1280, 2048, 20 * 64, [(640, 4), (1280, 20), (1280, 30), (640, 6), (1280, 10)])),
        ("sd-1.5-v", SD_LAYERS, (768, 768, 12 * 64, [(320, 2), (640, 2), (1280, 5), (640, 3), (320, 3), (1280, 1)])),
    ],
)
def test_a_published_unet_takes_the_published_ip_adapter_plus(
    model: str, layers: dict[str, int], adapter: tuple[int, int, int, list[tuple[int, int]]]
) -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(**architectures()[model]["unet"]["config"])
        resampler = install_ip_adapter(unet, published(*adapter))
    blocks = {f"{name}.transformer_blocks.{at}" for name, count in layers.items() for at in range(count)}
    assert set(unet.attn_processors) == {f"{name}.{part}.processor" for name in blocks for part in ("attn1", "attn2")}
    assert len(image_projections(unet)) == 2 * len(blocks)
    assert len(resampler.layers) == 4 and resampler.layers[0].attn.heads == adapter[2] // 64
    install(unet)
    linear = {name for name, module in unet.named_modules() if isinstance(module, nn.Linear)}
    assert {f"{name}.{part}" for name in blocks for part in SELF_ATTENTION} <= linear


@pytest.mark.parametrize("name", ["ours-3b", "ours-1b"])
def test_the_recipes_are_those_of_the_thesis(name: str) -> None:
    recipe = load_recipe(name)
    train, evaluate = recipe.train, recipe.evaluate
    assert (train.lora_rank, train.batch * train.accumulate) == (128, 32)
    assert (train.steps, train.learning_rate) == (20_000, 5e-6)
    assert (train.optimizer, train.references, train.noised.ip_adapter_scale) == ("adamw", "noised", 0.6)
    assert (evaluate.steps, evaluate.guidance.text_scale) == (50, 7.5)
    assert (evaluate.guidance.image_scale, evaluate.guidance.image_scale_rise, evaluate.property_image_scale) == (
        8.0,
        5.0,
        6.0,
    )
