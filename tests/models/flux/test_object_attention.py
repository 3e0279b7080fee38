"""Masks from attention: the right words, the right sums against a naive reference, and their use in a set."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.transformers.transformer_flux import FluxAttention
from tokenizers import Tokenizer
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import Metaspace
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from models.flux.attention import Rotary, apply_rope, project_qkv
from models.flux.generator import FluxGenerator
from models.flux.object_attention import ObjectAttention, otsu_threshold, token_span
from models.flux.processor import SharedAttnProcessor
from models.flux.sharing import SharedKeys
from models.generator import GenerateSettings, SetRequest
from models.masks import dilate

SIDE = 32
SETTINGS = GenerateSettings(
    height=SIDE,
    width=SIDE,
    steps=4,
    guidance_scale=3.5,
    true_cfg_scale=1.0,
    negative_prompt="blurry",
    warp="none",
    mask_dilation=1,
)


def pieces(length: int = 24) -> PreTrainedTokenizerFast:
    """A tokenizer of word pieces in T5's manner: blanks belong to the piece behind them."""
    words = [
        "\u2581a",
        "\u2581cat",
        "\u2581ham",
        "ster",
        "s",
        "\u2581Ham",
        "\u2581sits",
        "\u2581of",
        ".",
        "\u2581",
        "\u2581two",
    ]
    letters = [chr(code) for code in range(97, 123)]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocabulary += [(word, -1.0) for word in words] + [(letter, -9.0) for letter in letters]
    tokenizer = Tokenizer(Unigram(vocabulary, unk_id=2))
    tokenizer.pre_tokenizer = Metaspace()
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=length
    )


@pytest.mark.parametrize(
    ("prompt", "name", "words"),
    [
        ("a cat sits", "cat", ["\u2581cat"]),
        ("two cats sits", "Cat", ["\u2581cat", "s"]),
        ("a hamster sits", "hamster", ["\u2581ham", "ster"]),
        ("Hamsters sits", "hamster", ["\u2581Ham", "ster", "s"]),
        ("a hamster. a hamster", "hamster", ["\u2581ham", "ster", "\u2581ham", "ster"]),
    ],
)
def test_the_span_holds_all_pieces_of_every_mention(prompt: str, name: str, words: list[str]) -> None:
    tokenizer = pieces()
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(prompt).input_ids)
    assert [tokens[place] for place in token_span(tokenizer, prompt, name)] == words


def test_a_prompt_that_does_not_name_its_object_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"the prompt does not name its 'cat', .*: 'a scattered hamster'"):
        token_span(pieces(), "a scattered hamster", "cat")


def test_words_behind_the_limit_of_the_tokenizer_are_an_error() -> None:
    with pytest.raises(ValueError, match="names its 'cat' only behind its first 4 tokens"):
        token_span(pieces(4), "a hamster of a cat", "cat")


def naive_maps(query: Tensor, key: Tensor, text_tokens: int) -> Tensor:
    """(B, N, T): softmax over text tokens, mean over heads, one image, head and token at a time."""
    batch, length, heads, dim = query.shape
    found = torch.zeros(batch, length - text_tokens, text_tokens)
    for image in range(batch):
        for head in range(heads):
            for token in range(length - text_tokens):
                scores = torch.stack(
                    [query[image, text_tokens + token, head] @ key[image, word, head] for word in range(text_tokens)]
                )
                found[image, token] += (scores / dim**0.5).softmax(0) / heads
    return found


def test_it_adds_up_what_the_naive_maps_hold() -> None:
    generator = torch.Generator().manual_seed(0)
    spans = [[1], [0, 3]]
    observed = ObjectAttention(spans, text_tokens=5, image_tokens=6)
    expected = torch.zeros(2, 6)
    for _ in range(3):
        query, key = (torch.randn(2, 11, 4, 8, generator=generator) for _ in range(2))
        observed.add(query, key)
        maps = naive_maps(query, key, 5)
        expected += torch.stack([own[:, span].sum(-1) for own, span in zip(maps, spans, strict=True)])
    torch.testing.assert_close(observed.total_bn, expected)


def test_rows_of_the_negative_prompt_are_left_out() -> None:
    query, key = torch.randn(4, 11, 2, 8), torch.randn(4, 11, 2, 8)
    alone, guided = (ObjectAttention([[1], [2]], 5, 6) for _ in range(2))
    alone.add(query[:2], key[:2])
    guided.add(query, key)
    torch.testing.assert_close(guided.total_bn, alone.total_bn)


def test_otsu_is_the_threshold_of_largest_variance_between() -> None:
    values = torch.cat([torch.rand(300) * 0.3, 0.6 + torch.rand(100) * 0.4])
    levels = torch.linspace(0, 1, 501)[1:-1]
    between = [
        float((values <= level).sum() * (values > level).sum())
        * float(values[values <= level].mean() - values[values > level].mean()) ** 2
        if 0 < (values <= level).sum() < len(values)
        else 0.0
        for level in levels
    ]
    found = otsu_threshold(values)
    assert 0.25 < found < 0.65
    best = max(between)
    near = between[int((levels - found).abs().argmin())]
    assert near > 0.995 * best


def test_a_mask_is_what_lies_above_and_nothing_where_all_tokens_look_alike() -> None:
    observed = ObjectAttention([[0], [0]], 1, 6)
    observed.total_bn = torch.tensor([[0.1, 0.2, 5.0, 5.5, 0.15, 5.2], [2.0] * 6])
    assert observed.masks().tolist() == [[False, False, True, True, False, True], [False] * 6]


@pytest.fixture(scope="module")
def model(flux_folder: Callable[[bool, bool], Path]) -> FluxGenerator:
    return FluxGenerator.from_pretrained(flux_folder(False, True), "cpu", "float32")


def request(size: int = 3) -> SetRequest:
    prompts = ("a red mug on the beach", "a striped mug in the forest", "the dark mugs mug")
    return SetRequest(prompts=prompts[:size], seeds=tuple(range(4, 4 + size)), subject="mug")


class Recorder(SharedAttnProcessor):
    """Keeps the naive word shares of every attention module, in the order of the calls."""

    def __init__(self) -> None:
        self.shares: list[Tensor] = []
        self.seen: list[int] = []

    def __call__(
        self,
        attn: FluxAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: None = None,
        image_rotary_emb: Rotary | None = None,
        shared: SharedKeys | None = None,
        warp: None = None,
        observed: ObjectAttention | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        query, key, _ = project_qkv(attn, hidden_states, encoder_hidden_states)
        words = observed._words_bt
        maps = naive_maps(apply_rope(query, image_rotary_emb), apply_rope(key, image_rotary_emb), words.shape[1])
        self.shares.append((maps * words[:, None]).sum(-1))
        self.seen.append(sum(group.keys.numel() for group in shared.groups))
        return super().__call__(
            attn, hidden_states, encoder_hidden_states, None, image_rotary_emb, shared=shared, observed=observed
        )


def test_a_set_is_shared_by_masks_that_are_updated_after_every_step(model: FluxGenerator) -> None:
    sent, recorder = request(), Recorder()
    observed = model.observer([sent], SETTINGS)
    model.transformer.set_attn_processor(recorder)
    try:
        model.sample([sent], SETTINGS, observed)
    finally:
        model.transformer.set_attn_processor(SharedAttnProcessor())
    modules, tokens = len(recorder.shares) // SETTINGS.steps, (SIDE // model.token_pixels) ** 2
    torch.testing.assert_close(observed.total_bn, torch.stack(recorder.shares).sum(0), atol=1e-4, rtol=1e-4)
    reference = ObjectAttention([[0]] * 3, 10, tokens)
    for step in range(SETTINGS.steps):
        shared = recorder.seen[step * modules : (step + 1) * modules]
        if step == 0:
            visible = torch.ones(3, tokens, dtype=torch.bool)
        else:
            reference.total_bn = torch.stack(recorder.shares[: step * modules]).sum(0)
            visible = dilate(reference.masks(), 4, 4, SETTINGS.mask_dilation)
        assert set(shared) == {2 * int(visible.sum())}, "each image sees the objects of the two others"


def test_masks_come_with_the_images_and_do_not_depend_on_the_batch(model: FluxGenerator) -> None:
    sets = [request(3), replace(request(2), seeds=(8, 9)), replace(request(2), seeds=(5, 3))]
    made = model.generate_many(sets, SETTINGS)
    for each, sent in zip(made, sets, strict=True):
        assert each.masks.shape == (sent.size, SIDE, SIDE) and each.masks.dtype == np.bool_
        assert 0 < each.masks.mean() < 1
        side = model.token_pixels
        cells = each.masks.reshape(sent.size, SIDE // side, side, SIDE // side, side)
        assert (cells == cells[:, :, :1, :, :1]).all(), "whole tokens"
        assert np.array_equal(each.masks, model.generate(sent, SETTINGS).masks)


def test_observing_changes_no_image(model: FluxGenerator) -> None:
    alone = replace(SETTINGS, msa=False, true_cfg_scale=2.0)
    sent = request()
    with_masks, without = model.generate(sent, alone), model.generate(replace(sent, subject=None), alone)
    assert np.array_equal(with_masks.images, without.images)
    assert with_masks.masks is not None and without.masks is None


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({"subject": "boot"}, SETTINGS, "does not name its 'boot'"),
        ({}, replace(SETTINGS, msa_first_step="masked"), "msa_first_step is 'masked'"),
        ({}, replace(SETTINGS, warp="latents"), "correspondences is None"),
    ],
)
def test_a_set_that_cannot_be_made_is_refused_before_sampling(
    model: FluxGenerator, change: dict[str, str], settings: GenerateSettings, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        model.check(replace(request(), **change), settings)


def test_masks_come_from_one_place() -> None:
    with pytest.raises(ValueError, match="masks and the subject 'mug' are both given"):
        replace(request(2), masks=np.ones((2, SIDE, SIDE), bool))
