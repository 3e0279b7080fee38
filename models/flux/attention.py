"""The parts of a FLUX attention module: projections with query-key norm, RoPE, attention and output projections.

Double-stream modules have separate weights for text; single-stream modules get text and image tokens as one
sequence. Here both give joint sequences, text tokens first, as (batch, sequence, heads, head_dim).
"""

import torch
import torch.nn.functional as F
from diffusers.models.transformers.transformer_flux import FluxAttention
from torch import Tensor

Rotary = tuple[Tensor, Tensor]
"""Cosines and sines, float32, (S, D) for a whole batch or (B, S, D), as `FluxPosEmbed` gives them for position ids."""


def project_qkv(
    attn: FluxAttention, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised queries and keys, and values, without RoPE: each (B, T + S, H, D).

    `hidden_states` (B, S, C) goes through the module's own weights; `encoder_hidden_states` (B, T, C), if given,
    through the text weights of a double-stream module and comes first in the result.
    """
    query = attn.norm_q(attn.to_q(hidden_states).unflatten(-1, (-1, attn.head_dim)))
    key = attn.norm_k(attn.to_k(hidden_states).unflatten(-1, (-1, attn.head_dim)))
    value = attn.to_v(hidden_states).unflatten(-1, (-1, attn.head_dim))
    if encoder_hidden_states is None:
        return query, key, value
    text_query = attn.norm_added_q(attn.add_q_proj(encoder_hidden_states).unflatten(-1, (-1, attn.head_dim)))
    text_key = attn.norm_added_k(attn.add_k_proj(encoder_hidden_states).unflatten(-1, (-1, attn.head_dim)))
    text_value = attn.add_v_proj(encoder_hidden_states).unflatten(-1, (-1, attn.head_dim))
    return (
        torch.cat([text_query, query], dim=1),
        torch.cat([text_key, key], dim=1),
        torch.cat([text_value, value], dim=1),
    )


def apply_rope(x_bshd: Tensor, rotary: Rotary) -> Tensor:
    """Rotate pairs of channels by their positions, in float32; same numbers as diffusers' `apply_rotary_emb`."""
    cos, sin = (part.unsqueeze(-2) for part in rotary)
    even, odd = x_bshd.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([-odd, even], dim=-1).flatten(-2)
    return (x_bshd.float() * cos + turned.float() * sin).to(x_bshd.dtype)


def attend(query_bqhd: Tensor, key_bkhd: Tensor, value_bkhd: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(D) + bias) v, as (B, Q, H*D); `bias` broadcasts to (B, H, Q, K), bool: False hides."""
    query, key, value = (x.transpose(1, 2) for x in (query_bqhd, key_bkhd, value_bkhd))
    if _fused_is_slow(query):
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(2, 3)
        if bias is not None:
            scores = scores.masked_fill(~bias, -torch.inf) if bias.dtype == torch.bool else scores + bias
        out = scores.softmax(dim=-1).to(value.dtype) @ value
    else:
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    return out.transpose(1, 2).flatten(2)


def _fused_is_slow(query: Tensor) -> bool:
    """Whether this is training in bfloat16 on a CPU: at the miniature's sizes the fused kernel's backward pass takes
    several times as long as matrix products do."""
    half = query.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")
    return query.device.type == "cpu" and half and query.requires_grad


def project_out(attn: FluxAttention, joint_bsc: Tensor, text_tokens: int | None) -> Tensor | tuple[Tensor, Tensor]:
    """What the block expects back from its attention module, given attention outputs (B, T + S, H*D).

    Double-stream: pass the number of text tokens, get (image (B, S, C), text (B, T, C)). Single-stream: pass None;
    its projection is part of the block, so the joint sequence is returned as it is.
    """
    if text_tokens is None:
        return joint_bsc
    text, image = joint_bsc.split_with_sizes([text_tokens, joint_bsc.shape[1] - text_tokens], dim=1)
    image = attn.to_out[1](attn.to_out[0](image.contiguous()))
    return image, attn.to_add_out(text.contiguous())
