"""The attention parts against naive loops."""

import math

import pytest
import torch
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import FluxAttention, FluxPosEmbed

from models.flux.attention import apply_rope, attend, project_out, project_qkv
from models.flux.layout import image_ids


def double_stream() -> FluxAttention:
    torch.manual_seed(0)
    module = FluxAttention(8, heads=2, dim_head=4, added_kv_proj_dim=8, bias=True, out_dim=8, context_pre_only=False)
    for norm in (module.norm_q, module.norm_k, module.norm_added_q, module.norm_added_k):
        torch.nn.init.uniform_(norm.weight, 0.5, 2.0)
    return module.requires_grad_(False)


def test_projections_use_text_weights_for_text_and_normalise_each_head() -> None:
    module = double_stream()
    image, text = torch.randn(2, 5, 8), torch.randn(2, 3, 8)
    query, key, value = project_qkv(module, image, text)

    def expected(x: torch.Tensor, layer: torch.nn.Linear, norm: torch.nn.RMSNorm | None) -> torch.Tensor:
        heads = (x @ layer.weight.T + layer.bias).reshape(2, -1, 2, 4)
        if norm is None:
            return heads
        return heads / (heads.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight

    torch.testing.assert_close(query[:, :3], expected(text, module.add_q_proj, module.norm_added_q))
    torch.testing.assert_close(query[:, 3:], expected(image, module.to_q, module.norm_q))
    torch.testing.assert_close(key[:, :3], expected(text, module.add_k_proj, module.norm_added_k))
    torch.testing.assert_close(key[:, 3:], expected(image, module.to_k, module.norm_k))
    torch.testing.assert_close(value[:, :3], expected(text, module.add_v_proj, None))
    torch.testing.assert_close(value[:, 3:], expected(image, module.to_v, None))
    alone = project_qkv(module, image)
    assert all(torch.equal(part, whole[:, 3:]) for part, whole in zip(alone, (query, key, value), strict=True))


def test_rope_is_diffusers_rope_and_takes_positions_per_sample() -> None:
    pos_embed = FluxPosEmbed(theta=10000, axes_dim=[4, 6, 6])
    x = torch.randn(2, 12, 3, 16)
    near, far = pos_embed(image_ids(3, 4)), pos_embed(image_ids(3, 4, row_offset=5))
    assert torch.equal(apply_rope(x, near), apply_rotary_emb(x, near, sequence_dim=1))
    both = tuple(torch.stack(parts) for parts in zip(near, far, strict=True))
    turned = apply_rope(x, both)
    assert torch.equal(turned[:1], apply_rotary_emb(x[:1], near, sequence_dim=1))
    assert torch.equal(turned[1:], apply_rotary_emb(x[1:], far, sequence_dim=1))


def test_attend_is_scaled_dot_product_attention_with_a_bias() -> None:
    query, key, value = torch.randn(1, 3, 2, 4), torch.randn(1, 5, 2, 4), torch.randn(1, 5, 2, 4)
    bias = torch.randn(1, 1, 3, 5)
    out = attend(query, key, value, bias)
    for head in range(2):
        for row in range(3):
            scores = [
                math.exp(float(query[0, row, head] @ key[0, k, head]) / 2 + float(bias[0, 0, row, k])) for k in range(5)
            ]
            expected = sum(s / sum(scores) * value[0, k, head] for k, s in enumerate(scores))
            torch.testing.assert_close(out[0, row, head * 4 : head * 4 + 4], expected)


@pytest.mark.parametrize("masked", [False, True])
def test_products_in_bfloat16_training_are_the_fused_attention(masked: bool) -> None:
    parts = [torch.randn(2, tokens, 3, 8, dtype=torch.bfloat16) for tokens in (5, 7, 7)]
    visible = torch.rand(2, 1, 1, 7) < 0.6 if masked else None
    if masked:
        visible[..., 0] = True
    weights = torch.randn(2, 5, 24)

    def run(kind: torch.dtype) -> list[torch.Tensor]:
        own = [part.detach().to(kind, copy=True).requires_grad_() for part in parts]
        out = attend(*own, visible)
        (out.float() * weights).sum().backward()
        return [out.detach().float(), *(part.grad.float() for part in own)]

    for found, expected in zip(run(torch.bfloat16), run(torch.float32), strict=True):
        torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)


def test_output_projections_split_text_from_image_and_leave_single_streams_alone() -> None:
    module = double_stream()
    joint = torch.randn(2, 8, 8)
    image, text = project_out(module, joint, 3)
    torch.testing.assert_close(image, joint[:, 3:] @ module.to_out[0].weight.T + module.to_out[0].bias)
    torch.testing.assert_close(text, joint[:, :3] @ module.to_add_out.weight.T + module.to_add_out.bias)
    assert project_out(module, joint, None) is joint
