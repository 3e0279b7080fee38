"""LoRA of a denoising network through peft, and its file: what diffusers reads, byte-deterministic.

safetensors writes the metadata of a file in random order; `canonical_safetensors` sorts it, so that equal weights and
metadata give equal bytes.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

FILE_NAME = "pytorch_lora_weights.safetensors"
_ADAPTER = "default"


def add_lora(network: nn.Module, rank: int, layers: Sequence[str], seed: int) -> None:
    """Freeze `network` and add a float32 LoRA of alpha = rank to the layers whose names end so.

    It starts as no change, whatever the seed.
    """
    network.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network.add_adapter(
            LoraConfig(r=rank, lora_alpha=rank, target_modules=list(layers), lora_dropout=0.0), _ADAPTER
        )
    for parameter in trained_parameters(network).values():
        parameter.data = parameter.data.float()


def trained_parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """The trained parameters by name, in a fixed order; ValueError without a LoRA."""
    found = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    if not found:
        raise ValueError(f"the {type(network).__name__} has no trainable LoRA; call add_lora first")
    return found


@contextmanager
def lora_off(network: nn.Module) -> Iterator[None]:
    """Inside, `network` computes without its LoRA; also when it has none."""
    if not getattr(network, "peft_config", None):
        yield
        return
    network.disable_adapters()
    try:
        yield
    finally:
        network.enable_adapters()


def lora_state(network: nn.Module) -> dict[str, Tensor]:
    """Copies of the LoRA weights on the CPU, by peft's names."""
    state = get_peft_model_state_dict(network, adapter_name=_ADAPTER)
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}


def set_lora_state(network: nn.Module, state: dict[str, Tensor]) -> None:
    """Put back what `lora_state` gave; ValueError if the weights are not those of this LoRA."""
    own = set(get_peft_model_state_dict(network, adapter_name=_ADAPTER))
    if own != set(state):
        odd = sorted(own ^ set(state))
        raise ValueError(
            f"LoRA weights do not fit: {len(odd)} names differ, for example {odd[0]}; rank or targets changed?"
        )
    set_peft_model_state_dict(network, state, adapter_name=_ADAPTER)


def lora_file(
    network: nn.Module, prefix: str, metadata: dict[str, str], beside: Mapping[str, Tensor] | None = None
) -> bytes:
    """The LoRA as a safetensors file in diffusers' format, with `metadata` in its header.

    `prefix` is what diffusers' pipelines call the network: transformer or unet. `beside`: tensors that are no LoRA.
    """
    config = network.peft_config[_ADAPTER].to_dict()
    plain = {f"{prefix}.{key}": _plain(value) for key, value in config.items()}
    header = {**metadata, "format": "pt", LORA_ADAPTER_METADATA_KEY: json.dumps(plain, sort_keys=True)}
    tensors = {f"{prefix}.{name}": tensor for name, tensor in lora_state(network).items()}
    return canonical_safetensors({**tensors, **(beside or {})}, header)


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else value


def canonical_safetensors(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """A safetensors file whose header is in sorted order."""
    data = save(tensors, metadata=metadata)
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[end:]


def load_lora(network: nn.Module, prefix: str, file: Path) -> dict[str, str]:
    """Load a LoRA file for inference and return its metadata; ValueError if it does not fit the network."""
    metadata = read_metadata(file)
    network.load_lora_adapter(file.parent, prefix=prefix, weight_name=file.name, adapter_name=_ADAPTER)
    network.requires_grad_(False)
    return metadata


def read_metadata(file: Path) -> dict[str, str]:
    """The header of a safetensors file, without reading its weights; FileNotFoundError names the file.

    ValueError for a file of another kind or ending: diffusers would take it for a pickle, and reading one can run code.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such checkpoint; train one first: syncd run --until train")
    try:
        if file.suffix != ".safetensors":
            raise SafetensorError(f"its ending is {file.suffix!r}")
        with safe_open(file, framework="pt") as opened:
            return opened.metadata() or {}
    except SafetensorError as error:
        raise ValueError(
            f"{file}: not a .safetensors file ({error}); only those are read: a pickle (.pt, .bin, .ckpt) can run code "
            "when it is loaded; ask for the weights as safetensors"
        ) from error
