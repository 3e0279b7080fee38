import numpy as np
import pytest
import torch

from models.guidance import normalised_dual_guidance, plain_dual_guidance, text_guidance


def predictions(seed: int, batch: int = 3, tokens: int = 5, channels: int = 4) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, tokens, channels, generator=generator) for _ in range(3)]


def naive(u: np.ndarray, r: np.ndarray, f: np.ndarray, image_scale: float, text_scale: float) -> np.ndarray:
    """Eq. 5.4 for one sample, written out."""
    g_image, g_text = r - u, f - r
    norm_image = sum(float(x) ** 2 for x in g_image.ravel()) ** 0.5
    norm_text = sum(float(x) ** 2 for x in g_text.ravel()) ** 0.5
    shorter = min(norm_image, norm_text)
    result = r.astype(np.float64)
    if norm_image > 0:
        result = result + image_scale * (shorter / norm_image) * g_image
    if norm_text > 0:
        result = result + text_scale * (shorter / norm_text) * g_text
    return result


def test_matches_the_equation_sample_by_sample() -> None:
    u, r, f = predictions(0)
    guided = normalised_dual_guidance(u, r, f, 1.3, 2.1)
    for index in range(len(u)):
        expected = naive(u[index].numpy(), r[index].numpy(), f[index].numpy(), 1.3, 2.1)
        np.testing.assert_allclose(guided[index].numpy(), expected, rtol=1e-5, atol=1e-5)


def test_both_contributions_have_the_shorter_norm() -> None:
    u, r, f = predictions(1)
    u = r + 7 * (u - r)
    image = normalised_dual_guidance(u, r, f, 1.0, 0.0) - r
    text = normalised_dual_guidance(u, r, f, 0.0, 1.0) - r
    shorter = torch.minimum((r - u).flatten(1).norm(dim=1), (f - r).flatten(1).norm(dim=1))
    torch.testing.assert_close(image.flatten(1).norm(dim=1), shorter, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(text.flatten(1).norm(dim=1), shorter, rtol=1e-4, atol=1e-5)


def test_lengthening_the_longer_vector_changes_nothing_but_does_for_plain_guidance() -> None:
    """Why strong image guidance does not saturate: only the direction of the longer vector counts."""
    u, r, f = predictions(2)
    u = r + 3 * (u - r)
    far = r + 10 * (u - r)
    torch.testing.assert_close(
        normalised_dual_guidance(u, r, f, 5.0, 1.5), normalised_dual_guidance(far, r, f, 5.0, 1.5), rtol=1e-4, atol=1e-4
    )
    assert not torch.allclose(plain_dual_guidance(u, r, f, 5.0, 1.5), plain_dual_guidance(far, r, f, 5.0, 1.5))


def test_is_homogeneous_in_the_predictions() -> None:
    u, r, f = predictions(3)
    scaled = normalised_dual_guidance(1e3 * u, 1e3 * r, 1e3 * f, 2.0, 1.5)
    torch.testing.assert_close(scaled, 1e3 * normalised_dual_guidance(u, r, f, 2.0, 1.5), rtol=1e-4, atol=1e-2)


def test_norms_are_per_sample() -> None:
    """A loud neighbour in the batch must not change a sample."""
    u, r, f = predictions(4)
    alone = normalised_dual_guidance(u[:1], r[:1], f[:1], 2.0, 1.5)
    r[1], f[1] = 100 * r[1], -50 * f[1]
    torch.testing.assert_close(normalised_dual_guidance(u, r, f, 2.0, 1.5)[:1], alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("zero", ["image", "text", "both"])
def test_a_zero_guidance_vector_gives_r_and_never_nan(zero: str, dtype: torch.dtype) -> None:
    u, r, f = (tensor.to(dtype) for tensor in predictions(5))
    if zero in ("image", "both"):
        u = r.clone()
    if zero in ("text", "both"):
        f = r.clone()
    guided = normalised_dual_guidance(u, r, f, 3.0, 1.5)
    assert guided.dtype == dtype
    torch.testing.assert_close(guided, r)


def test_scales_of_zero_give_the_base_and_equal_norms_give_plain_guidance() -> None:
    u, r, f = predictions(6)
    torch.testing.assert_close(normalised_dual_guidance(u, r, f, 0.0, 0.0), r)
    ratio = (r - u).flatten(1).norm(dim=1) / (f - r).flatten(1).norm(dim=1)
    f = r + ratio[:, None, None] * (f - r)
    torch.testing.assert_close(
        normalised_dual_guidance(u, r, f, 1.2, 1.7), plain_dual_guidance(u, r, f, 1.2, 1.7), rtol=1e-4, atol=1e-5
    )


def test_text_guidance_is_plain_dual_guidance_without_references() -> None:
    _, r, f = predictions(7)
    torch.testing.assert_close(text_guidance(r, f, 1.5), plain_dual_guidance(r, r, f, 4.0, 1.5))
