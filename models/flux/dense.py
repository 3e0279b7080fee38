"""Thesis Eq. 5.1 as written, with a bias matrix over all K * (T + N) keys: the reference that tests and benchmarks
compare `sharing.py` with. The miniature's generator is trained with it: one matrix serves a batch of ragged masks.
"""

from typing import Literal

import torch
from diffusers.models.transformers.transformer_flux import FluxAttention, FluxPosEmbed
from torch import Tensor

from models.flux.attention import Rotary, apply_rope, attend, project_out, project_qkv
from models.flux.layout import image_ids, text_ids


class DenseAttnProcessor:
    """Same results as `SharedAttnProcessor` with `share_keys(visible_bn, ...)`; the arguments are the same."""

    def __init__(
        self,
        visible_bn: Tensor,
        set_size: int,
        height: int,
        width: int,
        text_tokens: int,
        rope: Literal["release", "stacked"],
        pos_embed: FluxPosEmbed,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        batch, count = visible_bn.shape
        joint = text_tokens + count
        device = visible_bn.device
        self.order = torch.tensor(
            [[b - b % set_size + (b + step) % set_size for step in range(set_size)] for b in range(batch)],
            device=device,
        )
        """(B, K): the image itself, then the next images of its set, cyclic."""
        self.bias = torch.full((batch, 1, joint, set_size * joint), float("-inf"), dtype=dtype, device=device)
        self.bias[..., :joint] = 0
        for b in range(batch):
            for step in range(1, set_size):
                seen = visible_bn[self.order[b, step]].nonzero()[:, 0]
                self.bias[b, 0, text_tokens:, step * joint + text_tokens + seen] = 0
        places = [
            [step if rope == "release" else (b + step) % set_size for step in range(set_size)] for b in range(batch)
        ]
        by_row = [
            pos_embed(torch.cat([text_ids(text_tokens, device), image_ids(height, width, row * height, device)]))
            for row in range(set_size)
        ]
        angles = [[by_row[row] for row in rows] for rows in places]
        self.query_rotary: Rotary = tuple(torch.stack([row[0][part] for row in angles]) for part in (0, 1))
        self.key_rotary: Rotary = tuple(
            torch.stack([torch.cat([one[part] for one in row]) for row in angles]) for part in (0, 1)
        )

    def __call__(
        self,
        attn: FluxAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: None = None,
        image_rotary_emb: Rotary | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        query, key, value = project_qkv(attn, hidden_states, encoder_hidden_states)
        keys = apply_rope(key[self.order].flatten(1, 2), self.key_rotary)
        out = attend(apply_rope(query, self.query_rotary), keys, value[self.order].flatten(1, 2), self.bias)
        return project_out(attn, out, None if encoder_hidden_states is None else encoder_hidden_states.shape[1])
