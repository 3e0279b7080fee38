"""DreamBooth (Ruiz et al. 2023) with a LoRA on all attention, as diffusers' train_dreambooth_lora scripts have it.

The identifier is a rare word that stands before the class noun. Text encoders stay as they are.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from configs.evaluation import DreamBooth
from models.customizer import Customizer

ADAPTER = "tuning"


@contextmanager
def fresh_lora(customizer: Customizer, settings: DreamBooth, seed: int) -> Iterator[dict[str, nn.Parameter]]:
    """Inside, the network has a new LoRA of alpha = rank, in float32, and no other; yields its parameters by name.

    It starts as no change. Afterwards the network is as before, with the LoRA it may have had.
    """
    network = customizer.network
    trainable = {name: own.requires_grad for name, own in network.named_parameters()}
    wrapped = {name for name, own in network.named_modules() if isinstance(own, BaseTunerLayer)}
    before = network.active_adapters() if wrapped else []
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.rank,
        target_modules=list(customizer.attention_layers),
        lora_dropout=0.0,
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # the one that is put aside
        torch.manual_seed(seed)
        network.add_adapter(config, ADAPTER)
    try:
        own = {name: weight for name, weight in network.named_parameters() if f".{ADAPTER}." in name}
        for weight in own.values():
            weight.data = weight.data.float()
        yield own
    finally:
        if before:
            network.set_adapter(before)
        network.delete_adapters(ADAPTER)
        _unwrap(network, wrapped)
        for name, weight in network.named_parameters():
            weight.requires_grad_(trainable[name])


def _unwrap(network: nn.Module, keep: set[str]) -> None:
    """Put the plain layers back into the places that no LoRA was in before."""
    for name, module in list(network.named_modules()):
        if isinstance(module, BaseTunerLayer) and name not in keep:
            network.set_submodule(name, module.get_base_layer())
