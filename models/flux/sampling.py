"""Flow-matching Euler sampling: the schedule FLUX uses and the loop over its steps."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.configuration_utils import FrozenDict
from torch import Tensor


def resolution_shift(config: FrozenDict, image_tokens: int) -> float:
    """mu of the dynamic time shift: linear in the number of image tokens, as in diffusers' FLUX pipelines."""
    slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
    return config.base_shift + slope * (image_tokens - config.base_image_seq_len)


def schedule(config: FrozenDict, steps: int, image_tokens: int) -> FlowMatchEulerDiscreteScheduler:
    """A fresh scheduler of that configuration, set to `steps` steps from sigma 1 down."""
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(config)
    sigmas = np.linspace(1.0, 1 / steps, steps)
    scheduler.set_timesteps(sigmas=sigmas, mu=resolution_shift(scheduler.config, image_tokens))
    return scheduler


def training_sigmas(config: FrozenDict, image_tokens: int, generators: Sequence[torch.Generator]) -> Tensor:
    """A noise level in (0, 1) from every generator: sigmoid of a standard normal, then the base's time shift."""
    sigma = torch.sigmoid(torch.stack([torch.randn((), generator=own) for own in generators]))
    shift = math.exp(resolution_shift(config, image_tokens)) if config.use_dynamic_shifting else config.shift
    return shift * sigma / (1 + (shift - 1) * sigma)


def early_steps(steps: int, share: float) -> int:
    """How many steps make up the first `share` of them, rounded up."""
    return math.ceil(round(share * steps, 6))


def denoise(
    scheduler: FlowMatchEulerDiscreteScheduler,
    latents: Tensor,
    velocity: Callable[[int, float, Tensor], Tensor],
    edit: Callable[[int, Tensor], Tensor] | None = None,
) -> Tensor:
    """Euler steps from noise to data, in float32.

    `velocity(step, sigma, latents)` predicts noise minus data; `edit(step, latents)` may replace x_t before that.
    """
    latents = latents.float()
    scheduler.set_begin_index(0)
    for step, timestep in enumerate(scheduler.timesteps):
        if edit is not None:
            latents = edit(step, latents)
        predicted = velocity(step, timestep.item() / 1000, latents)
        latents = scheduler.step(predicted.float(), timestep, latents, return_dict=False)[0]
    return latents
