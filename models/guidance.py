"""Dual guidance: how the three predictions of a customization model are combined at one denoising step.

u = v(x_t, no references, no text), r = v(x_t, references, no text), f = v(x_t, references, text). All functions take
them over the target's own latent only, batch first, and never over reference tokens.
"""

import torch
from torch import Tensor


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
