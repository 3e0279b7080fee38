import math
from pathlib import Path

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0

from models.unet.customizer import UNetCustomizer
from models.unet.reference import Exchange, Reference, ReferenceProcessor, gather, install, layer_grid

torch.set_num_threads(1)
NAME = "attn1.processor"


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def attention() -> Attention:
    torch.manual_seed(0)
    module = Attention(query_dim=8, heads=2, dim_head=4)
    module.requires_grad_(False).set_processor(ReferenceProcessor(NAME, Exchange()))
    return module


def naive(attn: Attention, own: torch.Tensor, seen: list[torch.Tensor]) -> torch.Tensor:
    """One sample (N, C): every query against own and seen keys, head by head, sums written out."""
    keys = torch.cat([own, *seen])
    q, k, v = (
        layer(part).unflatten(-1, (2, 4)) for layer, part in ((attn.to_q, own), (attn.to_k, keys), (attn.to_v, keys))
    )
    out = torch.zeros(len(own), 8)
    for head in range(2):
        for row in range(len(own)):
            scores = torch.stack([(q[row, head] * k[column, head]).sum() / math.sqrt(4) for column in range(len(keys))])
            weights = scores.exp() / scores.exp().sum()
            out[row, 4 * head : 4 * head + 4] = sum(weight * v[column, head] for column, weight in enumerate(weights))
    return attn.to_out[0](out)


def test_attention_to_references_is_dense_attention_over_the_object_alone(attention: Attention) -> None:
    """Ragged: two references, one, none; masks of different size; two guidance branches over one reading."""
    mask = torch.zeros(3, 3, dtype=torch.bool)
    mask[0, 1] = mask[2, 2] = True
    one, two, three = (Reference(draw(4, 3, 3, seed=seed), own) for seed, own in ((1, mask), (2, None), (3, ~mask)))
    hidden = [draw(9, 8, seed=seed) for seed in (11, 12, 13)]
    features = gather([[one, two], [three], []], [{NAME: own} for own in hidden])
    own = draw(6, 5, 8, seed=4)
    with attention.processor.exchange.attending(features):
        found = attention(own)
    seen = [[hidden[0][[1, 8]], hidden[1]], [hidden[2][[0, 2, 3, 4, 5, 6, 7]]], []]
    for row in range(6):
        torch.testing.assert_close(found[row], naive(attention, own[row], seen[row % 3]), atol=1e-5, rtol=1e-4)


def test_without_references_it_is_diffusers_own_to_the_bit(attention: Attention) -> None:
    own = draw(2, 5, 8, seed=4)
    found = attention(own)
    attention.set_processor(AttnProcessor2_0())
    assert torch.equal(found, attention(own))


def test_equal_counts_need_no_mask_and_ragged_ones_do() -> None:
    full, half = Reference(draw(4, 2, 2, seed=1), None), Reference(draw(4, 2, 2, seed=2), torch.eye(2).bool())
    hidden = {NAME: draw(4, 8, seed=3)}
    assert gather([[full], [full]], [hidden, hidden]).visible[NAME] is None
    ragged = gather([[full], [half]], [hidden, hidden])
    assert ragged.visible[NAME].tolist() == [[True] * 4, [True, True, False, False]]
    assert torch.equal(ragged.hidden[NAME][1, :2], hidden[NAME][[0, 3]])


@pytest.mark.parametrize(("tokens", "grid"), [(35, (7, 5)), (12, (4, 3)), (4, (2, 2)), (1, (1, 1))])
def test_layers_halve_the_latents_and_round_up(tokens: int, grid: tuple[int, int]) -> None:
    assert layer_grid(tokens, 7, 5) == grid


def test_a_layer_that_does_not_halve_the_latents_is_an_error() -> None:
    with pytest.raises(ValueError, match="a layer has 5 tokens, which latents of 7 x 5 do not halve to"):
        layer_grid(5, 7, 5)


def test_a_coarse_token_is_seen_if_it_holds_any_of_the_object() -> None:
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[3, 4] = True
    reference = Reference(torch.zeros(4, 8, 8), mask)
    assert reference.visible(64).tolist() == [3 * 8 + 4]
    assert reference.visible(16).tolist() == [1 * 4 + 2]
    assert reference.visible(4).tolist() == [1]
    assert Reference(torch.zeros(4, 8, 8), torch.zeros(8, 8, dtype=torch.bool)).visible(16).tolist() == []


def test_every_self_attention_layer_records_its_input_and_no_other(folder: Path) -> None:
    model = UNetCustomizer.from_pretrained(folder, "cpu", torch.float32)
    exchange = install(model.unet)
    with torch.no_grad(), exchange.recording() as seen:
        model.velocity(
            draw(1, 4, 8, 8, seed=0), torch.tensor([3]), model.encode_prompts(["a mug"]), model.image_tokens([None])
        )
    assert seen.keys() == {name for name in model.unet.attn_processors if "attn1" in name}
    assert {own.shape[1] for own in seen.values()} <= {64, 16}
    assert exchange.recorded is None
