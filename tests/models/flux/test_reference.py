from dataclasses import replace

import pytest
import torch
from diffusers import FluxTransformer2DModel
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor

from models.flux.layout import image_ids, text_ids
from models.flux.reference import (
    Reference,
    ReferenceKeys,
    install,
    kept_bytes,
    layer_bytes,
    reference_keys,
    row_offsets,
)

torch.set_num_threads(1)
HEIGHT, WIDTH, TEXT = 3, 4, 5


def make_transformer(guidance_embeds: bool = False) -> FluxTransformer2DModel:
    torch.manual_seed(0)
    model = FluxTransformer2DModel(
        in_channels=8,
        out_channels=4,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=6,
        pooled_projection_dim=7,
        guidance_embeds=guidance_embeds,
        axes_dims_rope=(2, 2, 4),
    ).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def randn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def some_reference(seed: int, height: int = HEIGHT, width: int = WIDTH) -> Reference:
    return Reference(randn(height * width, 8, seed=seed), height, width)


def run(model: FluxTransformer2DModel, batch: int = 1, seed: int = 3, **kwargs: object) -> Tensor:
    guidance = torch.full((batch,), 3.5) if model.config.guidance_embeds else None
    return model(
        hidden_states=randn(batch, HEIGHT * WIDTH, 8, seed=seed),
        encoder_hidden_states=randn(batch, TEXT, 6, seed=seed + 1),
        pooled_projections=randn(batch, 7, seed=seed + 2),
        timestep=torch.full((batch,), 0.7),
        img_ids=image_ids(HEIGHT, WIDTH),
        txt_ids=text_ids(TEXT),
        guidance=guidance,
        joint_attention_kwargs=kwargs or None,
    ).sample


def with_references(model: FluxTransformer2DModel, keys: ReferenceKeys | None, batch: int = 1) -> Tensor:
    return run(model, batch, references=keys, text_tokens=TEXT)


def heads(x: Tensor) -> Tensor:
    return x.unflatten(-1, (2, 8))


def softmax_attention(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor) -> Tensor:
    """One sample, dense: query (Q, H, D), key and value (K, H, D), allowed (Q, K)."""
    logits = torch.einsum("qhd,khd->hqk", query, key) / 8**0.5
    weights = logits.masked_fill(~allowed[None], -torch.inf).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, value).flatten(1)


def naive_separate(model: FluxTransformer2DModel, references: list[Reference], pooled_blank: Tensor) -> Tensor:
    """Text, target and references walk through the blocks together, as one (K+1)H x W image, one dense mask.

    Text and target are modulated at the target's timestep with its pooled prompt, references at 0 with the blank one.
    """
    pooled, timestep = randn(1, 7, seed=5), torch.full((1,), 700.0)
    temb = model.time_text_embed(timestep, pooled)
    temb_reference = model.time_text_embed(torch.zeros(1), pooled_blank)
    text = model.context_embedder(randn(1, TEXT, 6, seed=4)[0])
    image = model.x_embedder(randn(1, HEIGHT * WIDTH, 8, seed=3)[0])
    images = [model.x_embedder(reference.tokens) for reference in references]

    ids = [text_ids(TEXT), image_ids(HEIGHT, WIDTH)]
    first_row = HEIGHT
    for reference in references:
        ids.append(image_ids(reference.height, reference.width, first_row))
        first_row += reference.height
    rotary = model.pos_embed(torch.cat(ids))
    sizes = [TEXT, HEIGHT * WIDTH] + [len(x) for x in images]
    owner = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    allowed = owner[:, None] == owner[None, :]
    allowed |= (owner[:, None] < 2) & (owner[None, :] < 2)
    allowed |= (owner[:, None] == 1) & (owner[None, :] >= 2)

    def rope(x: Tensor) -> Tensor:
        return apply_rotary_emb(x[None], rotary, sequence_dim=1)[0]

    for block in model.transformer_blocks:
        attn, queries, keys, values, gates = block.attn, [], [], [], []
        for place, x in enumerate([text, image, *images]):
            norm = block.norm1_context if place == 0 else block.norm1
            normed, *modulation = norm(x[None], emb=temb if place < 2 else temb_reference)
            gates.append(modulation)
            q, k, v = (
                (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj) if place == 0 else (attn.to_q, attn.to_k, attn.to_v)
            )
            norm_q, norm_k = (attn.norm_added_q, attn.norm_added_k) if place == 0 else (attn.norm_q, attn.norm_k)
            queries.append(norm_q(heads(q(normed[0]))))
            keys.append(norm_k(heads(k(normed[0]))))
            values.append(heads(v(normed[0])))
        out = softmax_attention(rope(torch.cat(queries)), rope(torch.cat(keys)), torch.cat(values), allowed)
        walked = []
        for place, (x, attended) in enumerate(zip([text, image, *images], out.split(sizes), strict=True)):
            gate, shift_mlp, scale_mlp, gate_mlp = gates[place]
            norm2, ff = (block.norm2_context, block.ff_context) if place == 0 else (block.norm2, block.ff)
            x = x + gate * (attn.to_add_out(attended) if place == 0 else attn.to_out[0](attended))
            walked.append(x + gate_mlp * ff(norm2(x) * (1 + scale_mlp) + shift_mlp))
        text, image, *images = walked

    for block in model.single_transformer_blocks:
        attn, normed, gates = block.attn, [], []
        for place, x in enumerate([text, image, *images]):
            y, gate = block.norm(x[None], emb=temb if place < 2 else temb_reference)
            normed.append(y[0])
            gates.append(gate)
        joint = torch.cat(normed)
        query, key = rope(attn.norm_q(heads(attn.to_q(joint)))), rope(attn.norm_k(heads(attn.to_k(joint))))
        out = softmax_attention(query, key, heads(attn.to_v(joint)), allowed)
        out = block.proj_out(torch.cat([out, block.act_mlp(block.proj_mlp(joint))], dim=1))
        pieces = out.split(sizes)
        text, image, *images = (
            x + gate * piece for x, gate, piece in zip([text, image, *images], gates, pieces, strict=True)
        )
    return model.proj_out(model.norm_out(image[None], temb))


@pytest.fixture(scope="module")
def model() -> FluxTransformer2DModel:
    transformer = make_transformer()
    install(transformer)
    return transformer


BLANK = randn(1, 7, seed=9)


@torch.no_grad()
@pytest.mark.parametrize("count", [1, 2, 3])
def test_separate_form_equals_the_explicit_concatenated_computation(model: FluxTransformer2DModel, count: int) -> None:
    references = [some_reference(20 + place) for place in range(count)]
    keys = reference_keys(model, [references], HEIGHT, BLANK)
    torch.testing.assert_close(
        with_references(model, keys), naive_separate(model, references, BLANK), rtol=1e-4, atol=1e-4
    )


@torch.no_grad()
def test_references_of_other_sizes_are_exact_too(model: FluxTransformer2DModel) -> None:
    references = [some_reference(20, 2, 5), some_reference(21), some_reference(22, 4, 2)]
    keys = reference_keys(model, [references], HEIGHT, BLANK)
    torch.testing.assert_close(
        with_references(model, keys), naive_separate(model, references, BLANK), rtol=1e-4, atol=1e-4
    )


@torch.no_grad()
def test_kept_keys_serve_every_step_and_are_those_computed_again(model: FluxTransformer2DModel) -> None:
    references = [[some_reference(20), some_reference(21)]]
    kept = reference_keys(model, references, HEIGHT, BLANK)
    first = with_references(model, kept)
    with_references(model, None)
    again = reference_keys(model, references, HEIGHT, BLANK)
    for name in kept.keys:
        assert torch.equal(kept.keys[name], again.keys[name])
        assert torch.equal(kept.values[name], again.values[name])
    assert torch.equal(first, with_references(model, again))


@torch.no_grad()
@pytest.mark.parametrize("guidance_embeds", [False, True])
def test_without_references_it_is_the_unchanged_model(guidance_embeds: bool) -> None:
    plain, ours = make_transformer(guidance_embeds), make_transformer(guidance_embeds)
    install(ours)
    assert reference_keys(ours, [[], []], HEIGHT, BLANK, 1.0 if guidance_embeds else None) is None
    torch.testing.assert_close(with_references(ours, None, batch=2), run(plain, batch=2), rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_a_batch_with_different_counts_equals_its_samples_alone(model: FluxTransformer2DModel) -> None:
    references = [[some_reference(20)], [], [some_reference(21), some_reference(22, 2, 3)]]
    keys = reference_keys(model, references, HEIGHT, BLANK)
    assert keys.visible.sum(1).tolist() == [12, 0, 18]
    together = with_references(model, keys, batch=3)
    inputs = {
        "hidden_states": randn(3, HEIGHT * WIDTH, 8, seed=3),
        "encoder_hidden_states": randn(3, TEXT, 6, seed=4),
        "pooled_projections": randn(3, 7, seed=5),
        "timestep": torch.full((3,), 0.7),
    }
    for row in range(3):
        alone = model(
            **{name: tensor[row : row + 1] for name, tensor in inputs.items()},
            img_ids=image_ids(HEIGHT, WIDTH),
            txt_ids=text_ids(TEXT),
            joint_attention_kwargs={
                "references": reference_keys(model, [references[row]], HEIGHT, BLANK),
                "text_tokens": TEXT,
            },
        ).sample
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_selected_keys_serve_several_guidance_branches(model: FluxTransformer2DModel) -> None:
    keys = reference_keys(model, [[some_reference(20)], [some_reference(21), some_reference(22)]], HEIGHT, BLANK)
    twice = with_references(model, keys.select(torch.tensor([0, 1, 0, 1])), batch=4)
    inputs = randn(4, HEIGHT * WIDTH, 8, seed=3)
    second = model(
        hidden_states=inputs[2:],
        encoder_hidden_states=randn(4, TEXT, 6, seed=4)[2:],
        pooled_projections=randn(4, 7, seed=5)[2:],
        timestep=torch.full((2,), 0.7),
        img_ids=image_ids(HEIGHT, WIDTH),
        txt_ids=text_ids(TEXT),
        joint_attention_kwargs={"references": keys, "text_tokens": TEXT},
    ).sample
    torch.testing.assert_close(twice[2:], second, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_samples_in_front_of_those_that_see_references_see_none(model: FluxTransformer2DModel) -> None:
    keys = reference_keys(model, [[some_reference(20)], [some_reference(21), some_reference(22)]], HEIGHT, BLANK)
    mixed = with_references(model, keys.select(torch.tensor([1, 0])), batch=4)
    without = with_references(model, None, batch=4)
    torch.testing.assert_close(mixed[:2], without[:2], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(mixed[2:], without[2:], atol=1e-3)
    swapped = with_references(model, keys.select(torch.tensor([0, 1, 1, 0])), batch=4)
    assert not torch.allclose(swapped[:2], without[:2], atol=1e-3)
    torch.testing.assert_close(swapped[2:], mixed[2:], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_kept_bytes_are_those_of_the_tensors_and_the_layers_recordings_are_not_kept_beside_them(
    model: FluxTransformer2DModel,
) -> None:
    references = [some_reference(20), some_reference(21, 2, 3)]
    keys = reference_keys(model, [references], HEIGHT, BLANK)
    tokens = sum(len(reference.tokens) for reference in references)
    assert keys.bytes == kept_bytes(model, tokens) == 4 * layer_bytes(model, tokens)
    held = [kept.untyped_storage().nbytes() for part in (keys.keys, keys.values) for kept in part.values()]
    assert sum(held) == keys.bytes, "no view holds on to a larger tensor"


@torch.no_grad()
def test_references_change_the_target_and_a_reference_never_sees_another(model: FluxTransformer2DModel) -> None:
    one, other = some_reference(20), some_reference(21)
    both = reference_keys(model, [[one, other]], HEIGHT, BLANK)
    changed = reference_keys(model, [[one, replace(other, tokens=other.tokens + 1)]], HEIGHT, BLANK)
    own = one.height * one.width
    for name in both.keys:
        assert torch.equal(both.keys[name][:, :own], changed.keys[name][:, :own])
        assert not torch.equal(both.keys[name][:, own:], changed.keys[name][:, own:])
    assert not torch.allclose(with_references(model, both), with_references(model, changed), atol=1e-3)
    assert not torch.allclose(with_references(model, both), with_references(model, None), atol=1e-3)


def test_reference_j_lies_j_plus_one_heights_below_the_target() -> None:
    assert row_offsets(8, [some_reference(0, 8, 8)] * 3) == [8, 16, 24]
    assert row_offsets(8, [some_reference(0, 4, 4), some_reference(0, 6, 6)]) == [8, 12]
    assert row_offsets(8, []) == []


def test_gradients_reach_the_weights_through_the_references(model: FluxTransformer2DModel) -> None:
    keys = reference_keys(model, [[some_reference(20)], []], HEIGHT, BLANK)
    pooled_only = sum(key.square().sum() for key in keys.keys.values())
    (gradient,) = torch.autograd.grad(pooled_only, model.single_transformer_blocks[0].attn.to_k.weight)
    assert gradient.abs().sum() > 0
