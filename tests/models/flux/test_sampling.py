"""The schedule, the noise and the Euler loop."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from models.flux.sampling import denoise, early_steps, resolution_shift, schedule
from models.latents import initial_noise

FLUX = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, shift=3.0).config


def test_512_pixels_have_the_published_schedule() -> None:
    assert resolution_shift(FLUX, 1024) == pytest.approx(0.630)
    sigmas = schedule(FLUX, 30, 1024).sigmas
    published = [1, 0.982, 0.963, 0.944, 0.924, 0.904, 0.882, 0.861, 0.838, 0.814, 0.790]
    assert sigmas[:11].tolist() == pytest.approx(published, abs=6e-4)
    assert int((sigmas > 0.8).sum()) == 10
    assert len(sigmas) == 31 and sigmas[-1] == 0


def test_a_fixed_shift_needs_no_resolution() -> None:
    config = FlowMatchEulerDiscreteScheduler(shift=1.5).config
    sigmas = schedule(config, 4, 64).sigmas
    expected = [1.5 * s / (1 + 0.5 * s) for s in (1, 0.75, 0.5, 0.25)]
    assert sigmas.tolist() == pytest.approx([*expected, 0])


def test_the_first_fifth_of_30_steps_is_6() -> None:
    assert [early_steps(30, share) for share in (0, 0.2, 1 / 3, 1)] == [0, 6, 10, 30]
    assert early_steps(24, 0.2) == 5


def test_noise_of_an_image_depends_on_its_seed_alone() -> None:
    together = initial_noise([5, 2**63 - 1, 7], 4, 6, 8)
    torch.manual_seed(1)
    assert torch.equal(together[1:2], initial_noise([2**63 - 1], 4, 6, 8))
    assert not torch.equal(together[0], together[2])
    assert abs(float(initial_noise([0], 16, 64, 64).std()) - 1) < 0.02


def test_exact_velocity_reaches_the_data_and_edits_come_first() -> None:
    noise, data = torch.randn(1, 4, 2), torch.randn(1, 4, 2)
    sigmas = []

    def velocity(step: int, sigma: float, latents: torch.Tensor) -> torch.Tensor:
        sigmas.append(sigma)
        return (noise - data).double()

    scheduler = schedule(FLUX, 5, 1024)
    torch.testing.assert_close(denoise(scheduler, noise, velocity), data, atol=1e-5, rtol=1e-5)
    assert sigmas == pytest.approx(schedule(FLUX, 5, 1024).sigmas[:5].tolist())
    edited = denoise(schedule(FLUX, 5, 1024), noise, velocity, lambda step, latents: latents + (step == 0))
    torch.testing.assert_close(edited, data + 1, atol=1e-5, rtol=1e-5)
