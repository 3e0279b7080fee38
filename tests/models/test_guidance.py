import numpy as np
import pytest
import torch

from configs.errors import ConfigError
from configs.evaluation import Guidance
from configs.load import validated
from models.guidance import (
    FORMS,
    DualGuidance,
    Step,
    normalised_dual_guidance,
    plain_dual_guidance,
    projected_dual_guidance,
    text_guidance,
)


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


def step_at(number: int, count: int = 11, level: float = 0.5, like: torch.Tensor | None = None) -> Step:
    noisy = torch.zeros(1) if like is None else torch.randn(like.shape, generator=torch.Generator().manual_seed(99))
    return Step(number, count, level, noisy, (1.0, -level))


@pytest.mark.parametrize("form", ["normalised", "plain"])
def test_every_form_is_called_with_the_scales_of_its_step(form: str) -> None:
    u, r, f = predictions(8)
    scales = {"image_scale": 2.0, "image_scale_rise": 5.0, "text_scale": 1.5, "text_scale_rise": -1.0}
    guidance = DualGuidance(Guidance(form=form, **scales))
    for number, image, text in ((0, 2.0, 1.5), (5, 4.5, 1.0), (10, 7.0, 0.5)):
        torch.testing.assert_close(guidance(step_at(number), u, r, f), FORMS[form](u, r, f, image, text))
    assert guidance.scales(step_at(0, count=1)) == (2.0, 1.5)


def test_the_trace_has_the_norms_before_any_scaling() -> None:
    u, r, f = predictions(9)
    guidance = DualGuidance(Guidance(image_scale=9.0, interval=(0.4, 0.6)))
    guidance(step_at(0, level=0.9), u, r, f)
    guidance(step_at(1, level=0.5), r, r, f)
    for place, (first, second) in enumerate(guidance.norms()):
        assert (first.level, second.level) == (0.9, 0.5)
        assert first.image == pytest.approx(float((r - u)[place].norm()))
        assert first.text == pytest.approx(float((f - r)[place].norm()))
        assert second.image == 0


def test_outside_the_interval_the_prediction_is_the_conditional_one() -> None:
    u, r, f = predictions(10)
    guidance = DualGuidance(Guidance(interval=(0.2, 0.8)))
    for level in (0.1, 0.9):
        assert guidance(step_at(1, level=level), u, r, f) is f
        assert guidance.text_only(step_at(1, level=level), r, f) is f
    assert not torch.allclose(guidance(step_at(1, level=0.8), u, r, f), f)
    torch.testing.assert_close(guidance.text_only(step_at(1, level=0.2), r, f), text_guidance(r, f, 1.5))


def test_rescaling_brings_back_the_deviation_of_the_conditional_prediction() -> None:
    u, r, f = predictions(11)
    plain = DualGuidance(Guidance(form="plain", image_scale=6.0))(step_at(0), u, r, f)
    whole = DualGuidance(Guidance(form="plain", image_scale=6.0, rescale=1.0))(step_at(0), u, r, f)
    half = DualGuidance(Guidance(form="plain", image_scale=6.0, rescale=0.5))(step_at(0), u, r, f)
    assert (plain.flatten(1).std(dim=1) > 2 * f.flatten(1).std(dim=1)).all()
    torch.testing.assert_close(whole.flatten(1).std(dim=1), f.flatten(1).std(dim=1))
    torch.testing.assert_close(half, (plain + whole) / 2)


def test_projection_takes_out_what_lies_along_the_image() -> None:
    u, r, f = predictions(12)
    for sample in range(len(u)):
        moved = projected_dual_guidance(u, r, f, 1.0, 0.0, 0.0, 0.0)[sample] - r[sample]
        assert abs(float((moved * r[sample]).sum())) < 1e-3
        moved = projected_dual_guidance(u, r, f, 0.0, 1.0, 0.0, 0.0)[sample] - r[sample]
        assert abs(float((moved * f[sample]).sum())) < 1e-3
    kept = projected_dual_guidance(u, r, f, 1.2, 1.7, 1.0, 0.0)
    torch.testing.assert_close(kept, plain_dual_guidance(u, r, f, 1.2, 1.7))


def test_a_projected_vector_is_no_longer_than_allowed() -> None:
    u, r, f = predictions(13)
    cut = projected_dual_guidance(r - 50 * (r - u), r, f, 1.0, 0.0, 1.0, 2.0) - r
    torch.testing.assert_close(cut.flatten(1).norm(dim=1), torch.full((3,), 2.0))


def test_projected_guidance_works_on_the_images_that_predictions_stand_for() -> None:
    u, r, f = predictions(14)
    step = step_at(3, level=0.7, like=u)
    guided = DualGuidance(Guidance(form="projected", image_scale=2.0, parallel=0.3))(step, u, r, f)
    images = [step.noisy - 0.7 * prediction for prediction in (u, r, f)]
    expected = (step.noisy - projected_dual_guidance(*images, 2.0, 1.5, 0.3, 0.0)) / 0.7
    torch.testing.assert_close(guided, expected)
    same = DualGuidance(Guidance(form="projected", image_scale=2.0, parallel=1.0))(step, u, r, f)
    torch.testing.assert_close(same, plain_dual_guidance(u, r, f, 2.0, 1.5), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"form": "strong"}, "form is 'strong'; allowed: normalised, plain, projected"),
        ({"image_scale": -1.0}, "image_scale is -1.0; allowed: numbers at least 0 and at most 100"),
        ({"rescale": 1.5}, "rescale is 1.5; allowed: numbers at least 0 and at most 1"),
        ({"interval": (0.6, 0.4)}, "interval is .*the smaller first"),
        ({"image_scale": 1.0, "image_scale_rise": -3.0}, "image_scale 1 falls below 0 with image_scale_rise -3"),
        ({"strength": 1.0}, "strength is not a known key"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validated(Guidance, wrong, "guidance")
