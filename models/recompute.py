"""Gradient checkpointing: activations inside a network's blocks are computed again in the backward pass, not kept."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from diffusers import ModelMixin
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp._fully_shard._fsdp_common import TrainingState
from torch.utils.checkpoint import checkpoint

from models.flops import FlopCounter, counting, uncounted


def blocks(network: ModelMixin, surroundings: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
    """Checkpoint every block that diffusers can.

    `surroundings` is asked during the forward pass of a block for what it must run in when it is run again: state that
    it reads beside its arguments. Nothing in the blocks is random, so no random state is kept. Not the reentrant kind:
    tensors that leave a block by another way than its outputs, such as keys of references, get their gradients too.
    """

    shared = [module for module in network.modules() if isinstance(module, FSDPModule)]

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _again(surroundings(), counting(), shared)

    network.enable_gradient_checkpointing(
        partial(checkpoint, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
    )


@contextmanager
def _again(
    around: AbstractContextManager[None], counter: FlopCounter | None, shared: Sequence[FSDPModule]
) -> Iterator[None]:
    for module in shared:
        _leave_backward(module)
    with around, uncounted(counter):
        yield


def _leave_backward(module: FSDPModule) -> None:
    """Let a module whose backward pass has ended gather its weights in a forward pass.

    FSDP2 takes it for being in its backward pass until that of the whole network ends. Layers that run for references
    and for targets have two of them, and the second one runs them again.
    """
    state = module._get_fsdp_state()
    if all(group._training_state != TrainingState.PRE_BACKWARD for group in state._fsdp_param_groups):
        state._training_state = TrainingState.IDLE
