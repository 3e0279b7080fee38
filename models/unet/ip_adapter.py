"""IP-Adapter Plus in a U-Net: loaded by diffusers' own classes, and written in the published format.

The format: `image_proj.*`, the resampler, and `ip_adapter.N.to_k_ip.weight`, `ip_adapter.N.to_v_ip.weight` with N = 1,
3, 5, ... over the cross-attention layers in the order of `unet.attn_processors`.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from diffusers.models.embeddings import IPAdapterPlusImageProjection
from safetensors import safe_open
from torch import Tensor, nn

RESAMPLER, LAYERS = "image_proj.", "ip_adapter."
BLOCKS = 4
HEAD = 64
"""Depth and width of a head of the resampler: diffusers takes them for granted."""
_PARTS = {
    "ln0": "0.norm1",
    "ln1": "0.norm2",
    "attn.to_q": "0.to_q",
    "attn.to_out.0": "0.to_out",
    "ff.0": "1.0",
    "ff.1.net.0.proj": "1.1",
    "ff.1.net.2": "1.3",
}
"""Modules of a block of the resampler: in diffusers, and in a published file."""


def read_ip_adapter(file: Path) -> dict[str, Tensor]:
    """The IP-Adapter's tensors of a safetensors file by their published names, others left out."""
    with safe_open(file, framework="pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.offset_keys() if name.startswith((RESAMPLER, LAYERS))}


def install_ip_adapter(unet: UNet2DConditionModel, tensors: Mapping[str, Tensor]) -> IPAdapterPlusImageProjection:
    """Give the cross-attention of `unet` its image keys and values; returns the resampler, which `unet` does not keep.

    With the resampler outside, the U-Net takes image tokens as they are, and tokens that are zero add nothing at all.
    Raises ValueError if the tensors are not those of an IP-Adapter Plus for this U-Net, naming the first that differs.
    """
    _check(unet, tensors)
    parts = {
        part.removesuffix("."): {
            name.removeprefix(part): tensor for name, tensor in tensors.items() if name.startswith(part)
        }
        for part in (RESAMPLER, LAYERS)
    }
    unet._load_ip_adapter_weights([parts], low_cpu_mem_usage=False)
    resampler = unet.encoder_hid_proj.image_projection_layers[0]
    unet.encoder_hid_proj = None
    return resampler.requires_grad_(False).eval()


def image_layers(unet: UNet2DConditionModel) -> dict[str, IPAdapterAttnProcessor2_0]:
    """Processors of the image cross-attention by their published prefix: `ip_adapter.1`, `ip_adapter.3`, ..."""
    found = [own for own in unet.attn_processors.values() if isinstance(own, IPAdapterAttnProcessor2_0)]
    return {f"{LAYERS}{2 * place + 1}": processor for place, processor in enumerate(found)}


def image_projections(unet: UNet2DConditionModel) -> dict[str, nn.Parameter]:
    """Key and value projections of the image tokens, by their published names."""
    return {
        f"{prefix}.{name}.weight": getattr(processor, name)[0].weight
        for prefix, processor in image_layers(unet).items()
        for name in ("to_k_ip", "to_v_ip")
    }


def set_scale(unet: UNet2DConditionModel, scale: float) -> None:
    """Weight of the image cross-attention beside that of the text."""
    for processor in image_layers(unet).values():
        processor.scale = [scale]


def published(projections: Mapping[str, Tensor], resampler: IPAdapterPlusImageProjection) -> dict[str, Tensor]:
    """Everything `install_ip_adapter` takes: copies on the CPU by their published names, which `projections` have."""
    state = resampler.state_dict()
    tensors = {name: state[name] for name in state if not name.startswith("layers.")}
    for block in range(len(resampler.layers)):
        inside = {name.removeprefix(f"layers.{block}."): state[name] for name in state if f"layers.{block}." in name}
        for name, tensor in inside.items():
            module, _, kind = name.rpartition(".")
            if module in _PARTS:
                tensors[f"layers.{block}.{_PARTS[module]}.{kind}"] = tensor
        both = torch.cat([inside["attn.to_k.weight"], inside["attn.to_v.weight"]])
        tensors[f"layers.{block}.0.to_kv.weight"] = both
    whole = {f"{RESAMPLER}{name}": tensor for name, tensor in tensors.items()} | dict(projections)
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in whole.items()}


def _check(unet: UNet2DConditionModel, tensors: Mapping[str, Tensor]) -> None:
    wanted = _shapes(unet)
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items() if name.startswith(LAYERS)}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise ValueError(
                f"IP-Adapter: {name} is {found.get(name, 'missing')}; this U-Net takes {wanted.get(name, 'none')}"
            )
    width = unet.config.cross_attention_dim
    latents, out = tensors.get(f"{RESAMPLER}latents"), tensors.get(f"{RESAMPLER}proj_out.weight")
    if latents is None or out is None:
        raise ValueError(
            "IP-Adapter: image_proj.latents or image_proj.proj_out.weight is missing; IP-Adapter Plus has both"
        )
    if len(out) != width:
        raise ValueError(f"IP-Adapter: image tokens have {len(out)} channels; this U-Net takes {width}")


def _shapes(unet: UNet2DConditionModel) -> dict[str, tuple[int, ...]]:
    names = [name.removesuffix(".processor") for name in unet.attn_processors if name.endswith("attn2.processor")]
    return {
        f"{LAYERS}{2 * place + 1}.{part}_ip.weight": tuple(unet.get_submodule(name).get_submodule(part).weight.shape)
        for place, name in enumerate(names)
        for part in ("to_k", "to_v")
    }
