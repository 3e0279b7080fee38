"""What is trained of a U-Net, in one file: a LoRA on self-attention, and the IP-Adapter's image keys and values.

`unet.*` is the LoRA as `unet.load_lora_adapter` reads it and, by `lora_weights`, a pipeline's `load_lora_weights`,
which takes no other tensors beside. `ip_adapter.*` and `image_proj.*` are a published IP-Adapter Plus, resampler
included, that a pipeline's `load_ip_adapter` reads from the very file.
"""

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.embeddings import IPAdapterPlusImageProjection
from safetensors import safe_open
from torch import Tensor

from models import lora
from models.unet.ip_adapter import LAYERS, image_projections, published, read_ip_adapter

PREFIX = "unet"
SELF_ATTENTION = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0")


def add_adapter(unet: UNet2DConditionModel, rank: int, seed: int) -> None:
    """Freeze `unet` but for a fresh LoRA of alpha = rank and the image projections, both trained in float32."""
    lora.add_lora(unet, rank, SELF_ATTENTION, seed)
    for parameter in image_projections(unet).values():
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)


def adapter_state(unet: UNet2DConditionModel) -> dict[str, Tensor]:
    """Copies of the trained weights on the CPU: the LoRA by peft's names, image projections by their published ones."""
    return {**lora.lora_state(unet), **image_state(unet)}


def set_adapter_state(unet: UNet2DConditionModel, state: dict[str, Tensor]) -> None:
    """Put back what `adapter_state` gave; ValueError if the weights are not those of this adapter."""
    images = {name: tensor for name, tensor in state.items() if name.startswith(LAYERS)}
    lora.set_lora_state(unet, {name: tensor for name, tensor in state.items() if name not in images})
    set_image_state(unet, images)


def image_state(unet: UNet2DConditionModel) -> dict[str, Tensor]:
    """Copies of the image projections on the CPU."""
    return {name: weight.detach().cpu().clone() for name, weight in image_projections(unet).items()}


@torch.no_grad()
def set_image_state(unet: UNet2DConditionModel, state: dict[str, Tensor]) -> None:
    """Put back what `image_state` gave; ValueError if names or shapes are not those of this U-Net."""
    own = image_projections(unet)
    for name in sorted(own.keys() | state.keys()):
        if name not in own or name not in state or own[name].shape != state[name].shape:
            raise ValueError(f"image projections do not fit: {name}; the checkpoint is of another base model")
    for name, weight in own.items():
        weight.copy_(state[name])


def adapter_file(
    unet: UNet2DConditionModel, resampler: IPAdapterPlusImageProjection, metadata: dict[str, str]
) -> bytes:
    """The checkpoint, `metadata` in its header; equal weights and metadata give equal bytes."""
    return lora.lora_file(unet, PREFIX, metadata, beside=published(image_projections(unet), resampler))


def load_adapter(unet: UNet2DConditionModel, file: Path) -> dict[str, str]:
    """Load a checkpoint for inference and return its metadata; ValueError if it does not fit the U-Net.

    The resampler in it is the base model's own, never trained, and not read.
    """
    metadata = lora.load_lora(unet, PREFIX, file)
    set_image_state(unet, {name: own for name, own in read_ip_adapter(file).items() if name.startswith(LAYERS)})
    return metadata


def lora_weights(file: Path) -> dict[str, Tensor]:
    """The LoRA of a checkpoint alone, for `load_lora_weights` of a diffusers pipeline."""
    with safe_open(file, framework="pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.offset_keys() if name.startswith(f"{PREFIX}.")}
