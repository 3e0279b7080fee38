"""Dual guidance: how the three predictions of a customization model are combined at one denoising step.

u = v(x_t, no references, no text), r = v(x_t, references, no text), f = v(x_t, references, text). All functions take
them over the target's own latent only, batch first, and never over reference tokens. `DualGuidance` is the one place
where samplers plug in: the form, its scales over the steps, and what keeps strong guidance from saturating an image.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers.guiders.adaptive_projected_guidance import normalized_guidance
from diffusers.guiders.guider_utils import rescale_noise_cfg
from torch import Tensor

from configs.evaluation import Guidance


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
    """L2 norms of the guidance vectors of one image at one step, before any scaling."""

    level: float
    """Noise level as a share of the highest."""
    image: float
    """|g_I|."""
    text: float
    """|g_c|."""


OnStep = Callable[[Step], None]
"""Told of every step when its predictions are there."""


class DualGuidance:
    """Combines u, r and f step by step, and keeps the norms |g_I| and |g_c| of every step."""

    def __init__(self, settings: Guidance, on_step: OnStep | None = None) -> None:
        self.settings, self._on_step = settings, on_step
        self._seen: list[tuple[float, Tensor]] = []

    def scales(self, step: Step) -> tuple[float, float]:
        """s_I and s_c at a step: each linear from its value at the first step to value and rise at the last."""
        share, settings = step.number / max(1, step.count - 1), self.settings
        return (
            settings.image_scale + share * settings.image_scale_rise,
            settings.text_scale + share * settings.text_scale_rise,
        )

    def norms(self) -> list[list[Norms]]:
        """Of every image of the batch, step by step; empty for a model without references."""
        if not self._seen:
            return []
        levels = [level for level, _ in self._seen]
        values = torch.stack([norms for _, norms in self._seen], dim=1).tolist()
        return [[Norms(level, *pair) for level, pair in zip(levels, own, strict=True)] for own in values]

    def __call__(self, step: Step, u: Tensor, r: Tensor, f: Tensor) -> Tensor:
        """The guided prediction, float (B, ...) as the three."""
        self._tell(step)
        # Kept on the device: reading them here would wait for it at every step.
        self._seen.append((step.level, torch.stack([_norms(vector).flatten() for vector in (r - u, f - r)], dim=1)))
        low, high = self.settings.interval
        if not low <= step.level <= high:
            return f
        scales = self.scales(step)
        if self.settings.form == "projected":
            guided = self._projected(step, u, r, f, *scales)
        else:
            guided = FORMS[self.settings.form](u, r, f, *scales)
        return rescale_noise_cfg(guided, f, self.settings.rescale) if self.settings.rescale else guided

    def text_only(self, step: Step, r: Tensor, f: Tensor) -> Tensor:
        """The same for a model without references, where u = r: plain text guidance in the interval."""
        self._tell(step)
        low, high = self.settings.interval
        if not low <= step.level <= high:
            return f
        guided = text_guidance(r, f, self.scales(step)[1])
        return rescale_noise_cfg(guided, f, self.settings.rescale) if self.settings.rescale else guided

    def _tell(self, step: Step) -> None:
        if self._on_step is not None:
            self._on_step(step)

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
}
