"""Gradient checkpointing: activations inside a network's blocks are computed again in the backward pass, not kept."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from diffusers import ModelMixin
from torch.utils.checkpoint import checkpoint

from models.flops import FlopCounter, counting, uncounted


def blocks(network: ModelMixin, surroundings: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
    """Checkpoint every block that diffusers can.

    `surroundings` is asked during the forward pass of a block for what it must run in when it is run again: state that
    it reads beside its arguments. Nothing in the blocks is random, so no random state is kept. Not the reentrant kind:
    tensors that leave a block by another way than its outputs, such as keys of references, get their gradients too.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _again(surroundings(), counting())

    network.enable_gradient_checkpointing(
        partial(checkpoint, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
    )


@contextmanager
def _again(around: AbstractContextManager[None], counter: FlopCounter | None) -> Iterator[None]:
    with around, uncounted(counter):
        yield
