from itertools import pairwise

import pytest
import torch
from diffusers import DDPMScheduler

from models.unet.sampling import NoiseLevels, check_schedule, denoise, schedule

torch.set_num_threads(1)
CONFIG = dict(
    DDPMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
    ).config
)
SAMPLES = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
NOISE = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def test_the_last_timestep_is_pure_noise_and_the_first_nearly_clean() -> None:
    levels = NoiseLevels(CONFIG)
    assert len(levels) == 1000
    assert torch.equal(levels.noisy(SAMPLES, NOISE, torch.tensor([999, 999])), NOISE)
    assert torch.equal(levels.velocity(SAMPLES, NOISE, torch.tensor([999, 999])), -SAMPLES)
    torch.testing.assert_close(levels.noisy(SAMPLES, NOISE, torch.tensor([0, 0])), SAMPLES, atol=0.2, rtol=0)
    torch.testing.assert_close(levels.alphas**2 + levels.sigmas**2, torch.ones(1000))


def test_noise_and_velocity_are_those_of_diffusers() -> None:
    levels, scheduler, times = NoiseLevels(CONFIG), DDPMScheduler(**CONFIG), torch.tensor([17, 730])
    torch.testing.assert_close(levels.noisy(SAMPLES, NOISE, times), scheduler.add_noise(SAMPLES, NOISE, times))
    torch.testing.assert_close(levels.velocity(SAMPLES, NOISE, times), scheduler.get_velocity(SAMPLES, NOISE, times))


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_sampling_starts_at_the_last_timestep_whatever_the_folder_says(spacing: str) -> None:
    timesteps = schedule({**CONFIG, "timestep_spacing": spacing}, 50).timesteps
    assert timesteps.tolist() == [999.0 - 20 * step for step in range(50)]


def test_euler_steps_of_the_velocity_are_ddim_steps_by_hand() -> None:
    """From x_t and v: x = alpha x_t - sigma v, eps = sigma x_t + alpha v; then x_s = alpha_s x + sigma_s eps."""
    levels, weight = NoiseLevels(CONFIG), 0.3 * torch.randn(3, 3, generator=torch.Generator().manual_seed(2))
    seen = []

    def model(noisy: torch.Tensor, timestep: int) -> torch.Tensor:
        return torch.einsum("oc,bchw->bohw", weight, noisy) * (1 + timestep / 1000)

    def velocity(step: int, timestep: int, noisy: torch.Tensor) -> torch.Tensor:
        seen.append((step, timestep))
        if step == 0:
            torch.testing.assert_close(noisy, NOISE, atol=1e-5, rtol=1e-5)
        return model(noisy, timestep)

    found = denoise(schedule(CONFIG, 10), NOISE, velocity)
    noisy = NOISE
    for (_, now), following in pairwise([*enumerate(range(999, 0, -100)), None]):
        alpha, sigma = levels.alphas[now], levels.sigmas[now]
        predicted = model(noisy, now)
        clean, eps = alpha * noisy - sigma * predicted, sigma * noisy + alpha * predicted
        noisy = clean
        if following is not None:
            noisy = levels.alphas[following[1]] * clean + levels.sigmas[following[1]] * eps
    assert seen == list(enumerate(range(999, 0, -100)))
    torch.testing.assert_close(found, noisy, atol=2e-3, rtol=2e-3)


def test_a_perfect_model_gives_the_data_back_from_pure_noise() -> None:
    levels = NoiseLevels(CONFIG)

    def velocity(_step: int, timestep: int, noisy: torch.Tensor) -> torch.Tensor:
        alpha, sigma = levels.alphas[timestep], levels.sigmas[timestep]
        return alpha * (noisy - alpha * SAMPLES) / sigma - sigma * SAMPLES

    torch.testing.assert_close(denoise(schedule(CONFIG, 5), NOISE, velocity), SAMPLES, atol=1e-3, rtol=1e-3)


def test_another_kind_of_schedule_is_refused_by_its_value() -> None:
    check_schedule(CONFIG)
    with pytest.raises(ValueError, match=r"prediction_type is None; this model needs 'v_prediction'.*scheduler_config"):
        check_schedule({})
