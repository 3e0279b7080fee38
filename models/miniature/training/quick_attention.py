"""FLUX attention for training on a CPU in bfloat16: batched matrix products instead of the fused kernel.

At 92 tokens of 32 channels per head the fused kernel's backward pass takes six times as long as these products.
"""

from diffusers.models.transformers.transformer_flux import FluxAttention
from torch import Tensor, cat, stack
from torch.nn.functional import rms_norm

from models.flux.attention import Rotary, project_out


class QuickAttnProcessor:
    """Computes what diffusers' own processor does, in the dtype of the projections throughout."""

    def __call__(
        self,
        attn: FluxAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: None = None,
        image_rotary_emb: Rotary | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        query, key, value = (layer(hidden_states) for layer in (attn.to_q, attn.to_k, attn.to_v))
        query, key = _normed(query, attn.norm_q), _normed(key, attn.norm_k)
        text_tokens = None
        if encoder_hidden_states is not None:
            text_tokens = encoder_hidden_states.shape[1]
            layers = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
            text_query, text_key, text_value = (layer(encoder_hidden_states) for layer in layers)
            query = cat([_normed(text_query, attn.norm_added_q), query], dim=1)
            key = cat([_normed(text_key, attn.norm_added_k), key], dim=1)
            value = cat([text_value, value], dim=1)
        batch, tokens, heads, width = query.shape
        cos, sin = (part[:, None, ::2].to(query.dtype) for part in image_rotary_emb)
        query, key = _turned(query, cos, sin), _turned(key, cos, sin)
        value = value.unflatten(-1, (heads, width))
        query, key, value = (x.transpose(1, 2).reshape(batch * heads, tokens, width) for x in (query, key, value))
        weights = ((query * width**-0.5) @ key.transpose(1, 2)).softmax(dim=-1).to(value.dtype)
        out = (weights @ value).unflatten(0, (batch, heads)).transpose(1, 2).flatten(2)
        return project_out(attn, out, text_tokens)


def _normed(projected: Tensor, norm: object) -> Tensor:
    """(B, N, H*D) to query-key normed (B, N, H, D)."""
    width = norm.weight.shape[0]
    return rms_norm(projected.unflatten(-1, (-1, width)), (width,), norm.weight.to(projected.dtype), norm.eps)


def _turned(x_bnhd: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE; `cos` and `sin` are (N, 1, D/2)."""
    even, odd = x_bnhd.unflatten(-1, (-1, 2)).unbind(-1)
    return stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)
