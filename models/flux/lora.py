"""LoRA of a FLUX transformer through peft, and its file: what diffusers' `load_lora_weights` reads, byte-deterministic.

safetensors writes the metadata of a file in random order; `canonical_safetensors` sorts it, so that equal weights and
metadata give equal bytes.
"""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import FluxTransformer2DModel
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

FILE_NAME = "pytorch_lora_weights.safetensors"
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
FEEDFORWARD = ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2")
TARGETS = {"attention": ATTENTION, "attention_feedforward": ATTENTION + FEEDFORWARD}
_ADAPTER = "default"


def add_lora(
    transformer: FluxTransformer2DModel,
    rank: int,
    targets: Literal["attention", "attention_feedforward"],
    seed: int,
) -> None:
    """Freeze `transformer` and add a float32 LoRA of alpha = rank; it starts as no change, whatever the seed."""
    transformer.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer.add_adapter(
            LoraConfig(r=rank, lora_alpha=rank, target_modules=list(TARGETS[targets]), lora_dropout=0.0), _ADAPTER
        )
    for parameter in lora_parameters(transformer).values():
        parameter.data = parameter.data.float()


def lora_parameters(transformer: FluxTransformer2DModel) -> dict[str, nn.Parameter]:
    """The trained parameters by name, in a fixed order; ValueError without a LoRA."""
    found = {name: parameter for name, parameter in transformer.named_parameters() if parameter.requires_grad}
    if not found:
        raise ValueError("the transformer has no trainable LoRA; call add_lora first")
    return found


def lora_state(transformer: FluxTransformer2DModel) -> dict[str, Tensor]:
    """Copies of the LoRA weights on the CPU, by peft's names."""
    state = get_peft_model_state_dict(transformer, adapter_name=_ADAPTER)
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}


def set_lora_state(transformer: FluxTransformer2DModel, state: dict[str, Tensor]) -> None:
    """Put back what `lora_state` gave; ValueError if the weights are not those of this LoRA."""
    own = set(get_peft_model_state_dict(transformer, adapter_name=_ADAPTER))
    if own != set(state):
        odd = sorted(own ^ set(state))
        raise ValueError(
            f"LoRA weights do not fit: {len(odd)} names differ, for example {odd[0]}; rank or targets changed?"
        )
    set_peft_model_state_dict(transformer, state, adapter_name=_ADAPTER)


def lora_file(transformer: FluxTransformer2DModel, metadata: dict[str, str]) -> bytes:
    """The LoRA as a safetensors file in diffusers' format, with `metadata` in its header."""
    config = transformer.peft_config[_ADAPTER].to_dict()
    plain = {f"transformer.{key}": _plain(value) for key, value in config.items()}
    header = {**metadata, "format": "pt", LORA_ADAPTER_METADATA_KEY: json.dumps(plain, sort_keys=True)}
    return canonical_safetensors({f"transformer.{name}": t for name, t in lora_state(transformer).items()}, header)


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else value


def canonical_safetensors(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """A safetensors file whose header is in sorted order."""
    data = save(tensors, metadata=metadata)
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[end:]


def load_lora(transformer: FluxTransformer2DModel, file: Path) -> dict[str, str]:
    """Load a LoRA file for inference and return its metadata; ValueError if it does not fit the transformer."""
    metadata = read_metadata(file)
    transformer.load_lora_adapter(file.parent, prefix="transformer", weight_name=file.name, adapter_name=_ADAPTER)
    transformer.requires_grad_(False)
    return metadata


def read_metadata(file: Path) -> dict[str, str]:
    """The header of a safetensors file, without reading its weights; FileNotFoundError names the file."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such checkpoint; train one first: syncd run --until train")
    with safe_open(file, framework="pt") as opened:
        return opened.metadata() or {}
