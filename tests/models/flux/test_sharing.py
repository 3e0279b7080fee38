"""Masked shared attention: the mask's truth table, positions, and the fast form against the dense bias."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor

from models.flux.dense import DenseAttnProcessor
from models.flux.layout import image_ids, text_ids
from models.flux.processor import SharedAttnProcessor
from models.flux.sharing import share_keys
from models.masks import token_masks

HEIGHT, WIDTH = 3, 4
COUNT = HEIGHT * WIDTH


@pytest.fixture(scope="module")
def transformer(flux_folder: Callable[[bool, bool], Path]) -> FluxTransformer2DModel:
    return FluxTransformer2DModel.from_pretrained(flux_folder(False, False) / "transformer").eval()


def inputs(batch: int, text_tokens: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(batch * 100 + text_tokens)
    return {
        "hidden_states": torch.randn(batch, COUNT, 16, generator=generator).to(dtype),
        "encoder_hidden_states": torch.randn(batch, text_tokens, 16, generator=generator).to(dtype),
        "pooled_projections": torch.randn(batch, 12, generator=generator).to(dtype),
        "timestep": torch.full((batch,), 0.7),
        "img_ids": image_ids(HEIGHT, WIDTH),
        "txt_ids": text_ids(text_tokens),
    }


@torch.inference_mode()
def run(transformer: FluxTransformer2DModel, processor: object, batch: dict[str, Tensor], **kwargs: object) -> Tensor:
    transformer.set_attn_processor(processor)
    return transformer(**batch, joint_attention_kwargs=kwargs, return_dict=False)[0]


def ragged_masks(batch: int) -> Tensor:
    """From an empty to a full mask, all different; the last of a longer batch is random."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(batch, COUNT, generator=generator) < 0.4
    masks[0] = False
    masks[1] = True
    return masks


@pytest.mark.parametrize("rope", ["release", "stacked"])
@pytest.mark.parametrize(("sets", "size"), [(1, 2), (1, 3), (1, 4), (3, 2)])
@pytest.mark.parametrize("full", [False, True])
def test_gathered_keys_give_the_dense_result(
    transformer: FluxTransformer2DModel, sets: int, size: int, rope: str, full: bool
) -> None:
    visible = torch.ones(sets * size, COUNT, dtype=torch.bool) if full else ragged_masks(sets * size)
    batch = inputs(sets * size, 5)
    plan = (visible, size, HEIGHT, WIDTH, 5, rope, transformer.pos_embed)
    dense = run(transformer, DenseAttnProcessor(*plan), batch)
    fast = run(transformer, SharedAttnProcessor(), batch, shared=share_keys(*plan))
    independent = run(transformer, SharedAttnProcessor(), batch)
    torch.testing.assert_close(fast, dense, atol=2e-5, rtol=1e-4)
    assert (fast - independent).abs().max() > 0.01


def test_gathered_keys_give_the_dense_result_without_text_and_in_bfloat16(transformer: FluxTransformer2DModel) -> None:
    visible = ragged_masks(3)
    plan = (visible, 3, HEIGHT, WIDTH, 0, "release", transformer.pos_embed)
    batch = inputs(3, 0)
    dense = run(transformer, DenseAttnProcessor(*plan), batch)
    torch.testing.assert_close(
        run(transformer, SharedAttnProcessor(), batch, shared=share_keys(*plan)), dense, atol=2e-5, rtol=1e-4
    )
    half = FluxTransformer2DModel.from_config(transformer.config).eval()
    half.load_state_dict(transformer.state_dict())
    half.to(torch.bfloat16)
    fast = run(half, SharedAttnProcessor(), inputs(3, 0, torch.bfloat16), shared=share_keys(*plan))
    assert fast.dtype == torch.bfloat16
    torch.testing.assert_close(fast.float(), dense, atol=0.1, rtol=0.1)


@pytest.mark.parametrize("rope", ["release", "stacked"])
def test_copies_of_the_batch_do_not_see_each_other(transformer: FluxTransformer2DModel, rope: str) -> None:
    visible = ragged_masks(4)
    plan = (visible, 2, HEIGHT, WIDTH, 5, rope, transformer.pos_embed)
    first, second = inputs(4, 5), inputs(4, 5)
    second["encoder_hidden_states"] = second["encoder_hidden_states"].flip(0)
    both = {
        key: torch.cat([first[key], second[key]]) if key not in ("img_ids", "txt_ids") else first[key] for key in first
    }
    shared = share_keys(*plan)
    separate = [run(transformer, SharedAttnProcessor(), batch, shared=shared) for batch in (first, second)]
    together = run(transformer, SharedAttnProcessor(), both, shared=share_keys(*plan, copies=2))
    torch.testing.assert_close(together, torch.cat(separate), atol=2e-5, rtol=1e-4)


def test_one_image_per_set_is_unmodified_diffusers(transformer: FluxTransformer2DModel) -> None:
    batch = inputs(2, 5)
    processors = FluxTransformer2DModel.from_config(transformer.config).attn_processors
    transformer.set_attn_processor(processors)
    with torch.inference_mode():
        expected = transformer(**batch, return_dict=False)[0]
    shared = share_keys(torch.ones(2, COUNT, dtype=torch.bool), 1, HEIGHT, WIDTH, 5, "release", transformer.pos_embed)
    assert torch.equal(run(transformer, SharedAttnProcessor(), batch), expected)
    torch.testing.assert_close(run(transformer, SharedAttnProcessor(), batch, shared=shared), expected)


def attention_outputs(
    transformer: FluxTransformer2DModel, image: Tensor, text: Tensor, visible: Tensor
) -> tuple[Tensor, Tensor]:
    """(image, text) outputs of one double-stream module for a set of two."""
    shared = share_keys(visible, 2, HEIGHT, WIDTH, text.shape[1], "release", transformer.pos_embed)
    rotary = transformer.pos_embed(torch.cat([text_ids(text.shape[1]), image_ids(HEIGHT, WIDTH)]))
    with torch.inference_mode():
        return SharedAttnProcessor()(
            transformer.transformer_blocks[0].attn, image, text, image_rotary_emb=rotary, shared=shared
        )


@pytest.mark.parametrize(
    ("changed", "reaches_image", "reaches_text"),
    [
        ("own text", True, True),
        ("own object", True, True),
        ("own background", True, True),
        ("other object", True, False),
        ("other background", False, False),
        ("other text", False, False),
    ],
)
def test_mask_truth_table(
    transformer: FluxTransformer2DModel, changed: str, reaches_image: bool, reaches_text: bool
) -> None:
    """Change one token, see which outputs of image 0 move; rows that hold the changed token itself are left out."""
    generator = torch.Generator().manual_seed(3)
    image, text = torch.randn(2, COUNT, 32, generator=generator), torch.randn(2, 5, 32, generator=generator)
    visible = torch.zeros(2, COUNT, dtype=torch.bool)
    visible[:, 4:7] = True
    before = attention_outputs(transformer, image, text, visible)
    whose, what = changed.split()
    row = 0 if whose == "own" else 1
    token = {"object": 5, "background": 0, "text": 2}[what]
    (text if what == "text" else image)[row, token] += 3.0
    after = attention_outputs(transformer, image, text, visible)
    image_rows = [n for n in range(COUNT) if not (whose == "own" and what != "text" and n == token)]
    text_rows = [n for n in range(5) if not (whose == "own" and what == "text" and n == token)]
    image_change = (after[0] - before[0])[0, image_rows].abs().amax(-1)
    text_change = (after[1] - before[1])[0, text_rows].abs().amax(-1)
    for change, reaches in ((image_change, reaches_image), (text_change, reaches_text)):
        assert bool((change > 1e-6).all()) if reaches else bool((change == 0).all())


def test_release_keys_of_the_next_images_lie_below_in_cyclic_order(transformer: FluxTransformer2DModel) -> None:
    visible = torch.zeros(3, COUNT, dtype=torch.bool)
    visible[0, 5] = visible[1, 1] = visible[2, 7] = True
    shared = share_keys(visible, 3, HEIGHT, WIDTH, 2, "release", transformer.pos_embed)
    joint = 2 + COUNT
    (group,) = shared.groups
    assert shared.own is None
    assert group.keys.tolist() == [
        [1 * joint + 2 + 1, 2 * joint + 2 + 7],
        [2 * joint + 2 + 7, 0 * joint + 2 + 5],
        [0 * joint + 2 + 5, 1 * joint + 2 + 1],
    ]
    rows = [[0 + HEIGHT, 1 + 2 * HEIGHT], [1 + HEIGHT, 1 + 2 * HEIGHT], [1 + HEIGHT, 0 + 2 * HEIGHT]]
    columns = [[1, 3], [3, 1], [1, 1]]
    ids = torch.stack([torch.zeros(3, 2), torch.tensor(rows), torch.tensor(columns)], dim=-1)
    for image in range(3):
        expected = transformer.pos_embed(ids[image])
        torch.testing.assert_close(group.rotary[0][image], expected[0])
        torch.testing.assert_close(group.rotary[1][image], expected[1])


def test_stacked_positions_are_those_of_one_tall_image(transformer: FluxTransformer2DModel) -> None:
    shared = share_keys(ragged_masks(4), 2, HEIGHT, WIDTH, 2, "stacked", transformer.pos_embed)
    tall = transformer.pos_embed(image_ids(2 * HEIGHT, WIDTH))
    for part in (0, 1):
        own = shared.own[part]
        assert torch.equal(own[:, :2], transformer.pos_embed(text_ids(2))[part].expand(4, -1, -1))
        assert torch.equal(own[:2, 2:].flatten(0, 1), tall[part])
        assert torch.equal(own[2:, 2:].flatten(0, 1), tall[part])
    assert all(group.rotary is None for group in shared.groups)


def test_token_masks_keep_every_part_of_the_object_and_grow_by_half_the_window() -> None:
    pixels = torch.zeros(2, 40, 40, dtype=torch.bool)
    pixels[0, 17, 22] = True
    single = token_masks(pixels, 5, 5, 1).view(2, 5, 5)
    assert single[0].nonzero().tolist() == [[2, 2]]
    grown = token_masks(pixels, 5, 5, 3).view(2, 5, 5)
    assert grown[0].nonzero().tolist() == [[y, x] for y in (1, 2, 3) for x in (1, 2, 3)]
    assert not single[1].any() and not grown[1].any()
    pixels[1, 0, 39] = True
    assert token_masks(pixels, 5, 5, 3).view(2, 5, 5)[1].nonzero().tolist() == [[0, 3], [0, 4], [1, 3], [1, 4]]


def test_masks_of_another_grid_are_refused(transformer: FluxTransformer2DModel) -> None:
    with pytest.raises(ValueError, match="multiple of 2 images of 3 x 4 tokens"):
        share_keys(ragged_masks(3), 2, HEIGHT, WIDTH, 2, "release", transformer.pos_embed)
