"""One training on several devices: DDP around the adapter, the base whole on each or shared out among them.

The base is frozen, so sharing it out (FSDP2) needs all-gathers alone. Adapter, optimizer and moving average stay whole
on every process, in either way: a checkpoint is the same files whatever number of processes made it.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn
from torch.distributed import init_device_mesh
from torch.distributed.fsdp import fully_shard

from models.customizer import Customizer, TrainingBatch
from models.training.settings import Settings


class LossModule(nn.Module):
    """The loss as a module of the trained parameters alone, for DDP: the frozen base is equal everywhere."""

    def __init__(self, customizer: Customizer) -> None:
        super().__init__()
        self.trained = nn.ParameterList(customizer.adapter_parameters().values())
        self._losses = customizer.losses

    def forward(self, batch: TrainingBatch, generators: Sequence[torch.Generator]) -> Tensor:
        return self._losses(batch, generators)


def make_accelerator(device: str, accumulate: int, settings: Settings, folder: Path) -> Accelerator:
    """What knows about other processes, if there are any. `folder`: for files of trackers.

    DDP is told to look for parameters without gradient, though there are none: it then keeps its first buckets, so that
    a resumed run adds in the order of an undisturbed one.
    """
    ddp = DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=True)
    return Accelerator(
        cpu=device == "cpu",
        device_placement=False,
        gradient_accumulation_steps=accumulate,
        log_with=list(settings.trackers) or None,
        project_dir=str(folder),
        kwargs_handlers=[ddp],
    )


def shard_base(customizer: Customizer, processes: int, device: torch.device) -> None:
    """Share the frozen weights of a customizer's linear layers out among all processes; the rest is whole on each.

    Layer by layer and not block by block: weights are gathered for the backward pass when a gradient reaches the
    outputs of their module, and keys of references leave a block by another way. For the same reason nothing is shared
    out that belongs to the network as a whole, which runs for references and for targets.
    """
    network = customizer.network
    trained = set(customizer.adapter_parameters().values())
    layers = [own for own in network.modules() if type(own) is nn.Linear and trained.isdisjoint(own.parameters())]
    shared = {parameter for layer in layers for parameter in layer.parameters()}
    whole = set(network.parameters()) - shared
    for parameter in whole:
        parameter.data = parameter.data.to(device)
    mesh = init_device_mesh(device.type, (processes,))
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(network, mesh=mesh, ignored_params=whole)
    customizer.lockstep = True


def share_of(batch: int, accelerator: Accelerator) -> slice:
    """The rows of a batch that are this process's."""
    each = batch // accelerator.num_processes
    return slice(accelerator.process_index * each, (accelerator.process_index + 1) * each)
