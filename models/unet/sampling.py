"""Noise levels of a U-Net trained on velocities with zero terminal SNR, and Euler steps over them."""

from collections.abc import Callable, Mapping
from typing import Any

from diffusers import DDPMScheduler, EulerDiscreteScheduler
from torch import Tensor

WANTED = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}


def check_schedule(config: Mapping[str, Any]) -> None:
    """ValueError unless a scheduler's configuration is that of velocities with zero terminal SNR."""
    for key, wanted in WANTED.items():
        if config.get(key) != wanted:
            raise ValueError(
                f"scheduler: {key} is {config.get(key)!r}; this model needs {wanted!r}: take a base model that was "
                "trained so and says so in scheduler/scheduler_config.json"
            )


class NoiseLevels:
    """alpha_t and sigma_t of `x_t = alpha_t x + sigma_t eps` at the integer timesteps of training.

    alpha^2 + sigma^2 = 1; at the last timestep alpha is 0, so that x_t is pure noise (Lin et al. 2023).
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        products = DDPMScheduler.from_config(config).alphas_cumprod
        self.alphas, self.sigmas = products.sqrt(), (1 - products).sqrt()

    def __len__(self) -> int:
        return len(self.alphas)

    def noisy(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t of samples (B, ...) at `timesteps` (B,) int64."""
        alpha, sigma = self._at(timesteps, clean)
        return alpha * clean + sigma * noise

    def velocity(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the model learns: `alpha_t eps - sigma_t x` (Salimans and Ho 2022)."""
        alpha, sigma = self._at(timesteps, clean)
        return alpha * noise - sigma * clean

    def _at(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        shape = (-1, *[1] * (like.ndim - 1))
        places = timesteps.cpu()
        return tuple(kept[places].view(shape).to(like.device) for kept in (self.alphas, self.sigmas))


def schedule(config: Mapping[str, Any], steps: int) -> EulerDiscreteScheduler:
    """Euler steps from the last timestep of training, which is pure noise, down: spacing is always trailing."""
    scheduler = EulerDiscreteScheduler.from_config(config, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    return scheduler


def denoise(scheduler: EulerDiscreteScheduler, noise: Tensor, velocity: Callable[[int, int, Tensor], Tensor]) -> Tensor:
    """Euler steps from standard normal `noise` (B, ...) to data, in float32.

    `velocity(step, timestep, x_t)` gets x_t as in training; the scheduler's own variable is x_t / alpha_t.
    """
    latents = noise.float() * scheduler.init_noise_sigma
    scheduler.set_begin_index(0)
    for step, timestep in enumerate(scheduler.timesteps):
        noisy = scheduler.scale_model_input(latents, timestep)
        predicted = velocity(step, int(timestep), noisy)
        latents = scheduler.step(predicted.float(), timestep, latents, return_dict=False)[0]
    return latents
