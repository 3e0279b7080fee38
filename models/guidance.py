"""Dual guidance: how the three predictions of a customization model are combined at one denoising step.

u = v(x_t, no references, no text), r = v(x_t, references, no text), f = v(x_t, references, text). All functions take
them over the target's own latent only, batch first, and never over reference tokens. `DualGuidance` is the one place
where samplers plug in: the form, its scales over the steps, and what keeps strong guidance from saturating an image.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from diffusers.guiders.adaptive_projected_guidance import normalized_guidance
from diffusers.guiders.guider_utils import rescale_noise_cfg
from torch import Tensor


@dataclass(frozen=True)
class GuidanceSettings:
    """How predictions are combined. Raises ValueError naming the value and what is allowed."""

    form: Literal["normalised", "plain", "projected"] = "normalised"
    """normalised: thesis Eq. 5.4; plain: the same without normalising; projected: adaptive projected guidance."""
    image_scale: float = 1.0
    """s_I."""
    image_scale_rise: float = 0.0
    """Added to s_I by the last step, in equal parts from the first on (thesis C.1.2: 5.0 for the U-Nets)."""
    text_scale: float = 1.5
    """s_c; without references the scale of plain text guidance."""
    rescale: float = 0.0
    """Share of the guided prediction that is brought to the deviation of f (Lin et al. 2023, section 3.4)."""
    interval: tuple[float, float] = (0.0, 1.0)
    """Noise levels, as a share of the highest, that are guided; elsewhere the prediction is f (Kynkaanniemi et al.
    2024)."""
    parallel: float = 0.0
    """projected: the share kept of the part along the predicted image (eta of Sadat et al. 2024)."""
    longest: float = 0.0
    """projected: limit of a guidance vector's norm per latent value, in predicted images; 0: none."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("image_scale", 0, 100),
            ("image_scale_rise", -100, 100),
            ("text_scale", 0, 100),
            ("rescale", 0, 1),
            ("parallel", 0, 1),
            ("longest", 0, 100),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} is {value!r}; allowed: {low} to {high}")
        if self.form not in FORMS:
            raise ValueError(f"guidance is {self.form!r}; allowed: {', '.join(FORMS)}")
        if not 0 <= self.interval[0] < self.interval[1] <= 1:
            raise ValueError(f"interval is {self.interval!r}; allowed: two numbers from 0 to 1, the smaller first")
        if self.image_scale + self.image_scale_rise < 0:
            raise ValueError(
                f"image_scale {self.image_scale:g} falls below 0 with image_scale_rise {self.image_scale_rise:g}"
            )


@dataclass(frozen=True)
class Step:
    """Where in the sampling a prediction stands."""

    number: int
    """From 0."""
    count: int
    level: float
    """Noise level as a share of the highest, 1 to 0."""
    noisy: Tensor
    """x_t (B, ...)."""
    data: tuple[float, float]
    """(a, b): the image that a prediction v stands for is a x_t + b v; for a flow model (1, -sigma)."""


@dataclass(frozen=True)
class Norms:
    """Mean L2 norms over the batch of one step's guidance vectors, before any scaling."""

    step: int
    level: float
    image: float
    text: float


class DualGuidance:
    """Combines u, r and f step by step; `trace` has the norms |g_I| and |g_c| of every guided step."""

    def __init__(self, settings: GuidanceSettings) -> None:
        self.settings = settings
        self.trace: list[Norms] = []

    def image_scale(self, step: Step) -> float:
        """s_I at a step: linear from `image_scale` at the first to `image_scale + image_scale_rise` at the last."""
        share = step.number / max(1, step.count - 1)
        return self.settings.image_scale + share * self.settings.image_scale_rise

    def __call__(self, step: Step, u: Tensor, r: Tensor, f: Tensor) -> Tensor:
        """The guided prediction, float (B, ...) as the three."""
        image, text = (float(_norms(vector).mean()) for vector in (r - u, f - r))
        self.trace.append(Norms(step.number, step.level, image, text))
        low, high = self.settings.interval
        if not low <= step.level <= high:
            return f
        scales = self.image_scale(step), self.settings.text_scale
        if self.settings.form == "projected":
            guided = self._projected(step, u, r, f, *scales)
        else:
            guided = FORMS[self.settings.form](u, r, f, *scales)
        return rescale_noise_cfg(guided, f, self.settings.rescale) if self.settings.rescale else guided

    def text_only(self, step: Step, r: Tensor, f: Tensor) -> Tensor:
        """The same for a model without references, where u = r: plain text guidance in the interval."""
        low, high = self.settings.interval
        if not low <= step.level <= high:
            return f
        guided = text_guidance(r, f, self.settings.text_scale)
        return rescale_noise_cfg(guided, f, self.settings.rescale) if self.settings.rescale else guided

    def _projected(self, step: Step, u: Tensor, r: Tensor, f: Tensor, image_scale: float, text_scale: float) -> Tensor:
        """As `projected_dual_guidance`, on the images that the predictions stand for."""
        a, b = step.data
        if b == 0:
            return f
        images = [a * step.noisy.float() + b * prediction.float() for prediction in (u, r, f)]
        longest = self.settings.longest * (images[0][0].numel() ** 0.5)
        guided = projected_dual_guidance(*images, image_scale, text_scale, self.settings.parallel, longest)
        return ((guided - a * step.noisy.float()) / b).to(r.dtype)


def normalised_dual_guidance(u: Tensor, r: Tensor, f: Tensor, image_scale: float, text_scale: float) -> Tensor:
    """Thesis Eq. 5.4: `r + s_I m/|g_I| g_I + s_c m/|g_c| g_c` with g_I = r - u, g_c = f - r, m = min(|g_I|, |g_c|).

    Any shape (B, ...), equal for all three; norms are L2 per sample over everything but the batch. If either guidance
    vector is zero then m is zero and so is its contribution: the result is r, never NaN.
    """
    image, text = r - u, f - r
    image_norm, text_norm = _norms(image), _norms(text)
    shorter = torch.minimum(image_norm, text_norm)
    guided = r + image_scale * image * _ratio(shorter, image_norm) + text_scale * text * _ratio(shorter, text_norm)
    return guided.to(r.dtype)


def plain_dual_guidance(u: Tensor, r: Tensor, f: Tensor, image_scale: float, text_scale: float) -> Tensor:
    """The same without normalisation: `r + s_I (r - u) + s_c (f - r)`."""
    return r + image_scale * (r - u) + text_scale * (f - r)


def projected_dual_guidance(
    u: Tensor, r: Tensor, f: Tensor, image_scale: float, text_scale: float, parallel: float, longest: float
) -> Tensor:
    """Adaptive projected guidance with two vectors: `r + s_I P_r(g_I) + s_c P_f(g_c)` (Sadat et al. 2024, no momentum).

    P_y keeps of a vector, cut to the norm `longest` (0: not cut), all that is orthogonal to y and the share `parallel`
    of what lies along it, which is what saturates. u, r, f: predicted images, not velocities.
    """
    image = normalized_guidance(r, u, image_scale, None, parallel, longest, use_original_formulation=True)
    text = normalized_guidance(f, r, text_scale, None, parallel, longest, use_original_formulation=True)
    return image + text - f


def text_guidance(r: Tensor, f: Tensor, text_scale: float) -> Tensor:
    """`r + s_c (f - r)`: what both forms mean for a model that is given no references, where u = r."""
    return r + text_scale * (f - r)


def _norms(vector: Tensor) -> Tensor:
    """L2 norm per sample in float32, shaped (B, 1, ...) to broadcast."""
    norms = vector.float().flatten(1).norm(dim=1)
    return norms.view(-1, *[1] * (vector.ndim - 1))


def _ratio(shorter: Tensor, norm: Tensor) -> Tensor:
    """`shorter / norm`, and 0 where the norm is 0."""
    return torch.where(norm > 0, shorter / norm.clamp_min(torch.finfo(norm.dtype).tiny), torch.zeros_like(norm))


FORMS = {
    "normalised": normalised_dual_guidance,
    "plain": plain_dual_guidance,
    "projected": projected_dual_guidance,
}
