from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from configs.evaluation import Guidance
from models import memory
from models.customizer import CustomizeRequest, CustomizeSettings, TrainingBatch
from models.flux import customizer as customizer_module
from models.flux.customizer import FluxCustomizer
from models.flux.model import TextEmbeddings
from models.flux.reference import ReferenceKeys, kept_bytes
from models.flux.sampling import training_sigmas
from models.guidance import DualGuidance, normalised_dual_guidance

torch.set_num_threads(1)
SIDE = 16
STRONG = Guidance(form="plain", image_scale=5.0, text_scale=1.6)
SETTINGS = CustomizeSettings(height=SIDE, width=SIDE, steps=3, guidance=Guidance(image_scale=1.2, text_scale=1.6))
Folder = Callable[[bool, bool], Path]


def picture(seed: int, side: int = SIDE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def with_strong_adapter(customizer: FluxCustomizer) -> FluxCustomizer:
    """Trained LoRA weights are not zero; random ones make its effect visible."""
    customizer.add_adapter(4, "attention", seed=0)
    generator = torch.Generator().manual_seed(1)
    for parameter in customizer.adapter_parameters().values():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return customizer


@pytest.fixture(params=[(True, False), (False, True)], ids=["depth", "embedded_guidance"])
def customizer(request: pytest.FixtureRequest, flux_folder: Folder) -> FluxCustomizer:
    return FluxCustomizer.from_pretrained(flux_folder(*request.param))


def batch_of(customizer: FluxCustomizer, references: list[list[np.ndarray]]) -> TrainingBatch:
    return TrainingBatch(
        targets=customizer.image_features([picture(seed) for seed in range(len(references))]),
        texts=customizer.text_features(["a red mug", "a blue mug on the beach", ""][: len(references)]),
        references=[[customizer.image_features([image])[0] for image in own] for own in references],
    )


def losses(customizer: FluxCustomizer, batch: TrainingBatch, seed: int = 0) -> torch.Tensor:
    return customizer.losses(batch, [torch.Generator().manual_seed(seed + row) for row in range(len(batch.targets))])


@pytest.mark.parametrize("form", ["separate", "joint"])
def test_loss_is_the_flow_loss_of_the_target_tokens_alone(
    customizer: FluxCustomizer, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eq. 5.3 by hand, from what the transformer was given and gave back; reference outputs must not count."""
    customizer.references = form
    batch = batch_of(customizer, [[picture(10)], [picture(11), picture(12)]])
    seen: dict[str, Any] = {}
    forward = customizer.transformer.forward

    def spy(**kwargs: Any) -> tuple[torch.Tensor]:
        (out,) = forward(**kwargs) if kwargs.get("return_dict") is False else (forward(**kwargs),)
        if kwargs["encoder_hidden_states"].shape[1]:
            seen.update(kwargs, out=out)
        return (out,)

    monkeypatch.setattr(customizer.transformer, "forward", spy)
    found = losses(customizer, batch, seed=5)
    clean = torch.stack([own["tokens"] for own in batch.targets])
    noise = torch.stack(
        [torch.randn(clean.shape[1:], generator=torch.Generator().manual_seed(5 + row)) for row in (0, 1)]
    )
    sigma = seen["timestep"][:, None, None]
    given = seen["hidden_states"][:, : clean.shape[1], : clean.shape[2]]
    torch.testing.assert_close(given, (1 - sigma) * clean + sigma * noise)
    wanted = [((seen["out"][row, : clean.shape[1]] - (noise[row] - clean[row])) ** 2).mean() for row in range(2)]
    torch.testing.assert_close(found, torch.stack(wanted))
    assert (seen["out"].shape[1] > clean.shape[1]) == (form == "joint")


@pytest.mark.parametrize("form", ["separate", "joint"])
def test_references_matter_and_dropping_them_is_the_model_without(customizer: FluxCustomizer, form: str) -> None:
    customizer.references = form
    with torch.no_grad():
        both = losses(customizer, batch_of(customizer, [[picture(10)], [picture(11)]]))
        second_dropped = losses(customizer, batch_of(customizer, [[picture(10)], []]))
        none = losses(customizer, batch_of(customizer, [[], []]))
    torch.testing.assert_close(both[0], second_dropped[0])
    assert abs(float(both[1] - second_dropped[1])) > 1e-5
    torch.testing.assert_close(none[1], second_dropped[1])


def test_joint_references_see_the_noisy_target_and_separate_ones_do_not(
    customizer: FluxCustomizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The forms differ in what reaches the transformer: one sequence at one noise level, or references at 0 alone."""
    calls: list[dict[str, Any]] = []
    forward = customizer.transformer.forward

    def spy(**kwargs: Any) -> Any:
        calls.append(kwargs)
        return forward(**kwargs)

    monkeypatch.setattr(customizer.transformer, "forward", spy)
    batch = batch_of(customizer, [[picture(10), picture(11)]])
    with torch.no_grad():
        losses(customizer, batch)
        separate, calls[:] = list(calls), []
        customizer.references = "joint"
        losses(customizer, batch)
    assert [call["encoder_hidden_states"].shape[1] for call in separate] == [0, 10]
    assert separate[0]["timestep"].tolist() == [0.0, 0.0]
    assert separate[0]["hidden_states"].shape[:2] == (2, 4)
    assert separate[1]["hidden_states"].shape[1] == 4
    assert len(calls) == 1
    assert calls[0]["hidden_states"].shape[1] == 3 * 4
    rows = calls[0]["img_ids"][:, 1].reshape(3, 2, 2)
    assert [part.min().item() for part in rows] == [0, 2, 4], "reference j lies (j + 1) h rows below the target"


def test_a_fresh_adapter_changes_nothing_and_only_the_adapter_trains(customizer: FluxCustomizer) -> None:
    batch = batch_of(customizer, [[picture(10)], []])
    with torch.no_grad():
        before = losses(customizer, batch)
    customizer.add_adapter(4, "attention", seed=3)
    torch.testing.assert_close(losses(customizer, batch), before)
    losses(customizer, batch).sum().backward()
    assert all("lora_" in name for name in customizer.adapter_parameters())
    for name, parameter in customizer.transformer.named_parameters():
        assert (parameter.grad is not None) == ("lora_" in name), name


@pytest.mark.parametrize("form", ["separate", "joint"])
def test_bfloat16_trains_close_to_float32(flux_folder: Folder, form: str) -> None:
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = FluxCustomizer.from_pretrained(flux_folder(True, False), "cpu", dtype)
        model.references = form
        model.add_adapter(4, "attention", seed=3)
        batch = batch_of(model, [[picture(10)], [picture(11), picture(12)]])
        loss = losses(model, batch)
        loss.sum().backward()
        gradients = {name: parameter.grad for name, parameter in model.adapter_parameters().items()}
        assert {gradient.dtype for gradient in gradients.values()} == {torch.float32}
        found[dtype] = (loss.detach(), torch.cat([own.flatten() for own in gradients.values()]))
    torch.testing.assert_close(found[torch.bfloat16][0], found[torch.float32][0], rtol=0.05, atol=0.02)
    cosine = torch.nn.functional.cosine_similarity(found[torch.bfloat16][1], found[torch.float32][1], dim=0)
    assert cosine > 0.97


@pytest.mark.parametrize("form", ["separate", "joint"])
def test_a_sample_has_the_same_loss_in_every_batch(customizer: FluxCustomizer, form: str) -> None:
    customizer.references = form
    batch = batch_of(customizer, [[picture(10)], [picture(11), picture(12)], []])
    together = losses(customizer, batch)
    for row in range(3):
        alone = TrainingBatch(*(part[row : row + 1] for part in (batch.targets, batch.texts, batch.references)))
        torch.testing.assert_close(losses(customizer, alone, seed=row)[0], together[row], rtol=1e-4, atol=1e-5)


def test_training_levels_are_shifted_like_the_base_schedule(customizer: FluxCustomizer) -> None:
    config = customizer.scheduler.config
    levels = training_sigmas(config, 4096, [torch.Generator().manual_seed(0)] * 20000)
    assert levels.min() > 0 and levels.max() < 1
    assert levels.median().item() == pytest.approx(np.exp(1.15) / (np.exp(1.15) + 1), abs=0.01)


def naive_sample(customizer: FluxCustomizer, request: CustomizeRequest, settings: CustomizeSettings) -> torch.Tensor:
    """One image, Euler by hand, three separate calls per step, references computed again in every one of them."""
    grid = customizer.token_grid(settings.height, settings.width)
    generator = torch.Generator().manual_seed(request.seed)
    noise = torch.randn(customizer.latent_channels, 2 * grid[0], 2 * grid[1], generator=generator)
    tokens = noise.reshape(-1, grid[0], 2, grid[1], 2).permute(1, 3, 0, 2, 4).reshape(1, grid[0] * grid[1], -1)
    config = customizer.scheduler.config
    slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
    shift = np.exp(config.base_shift + slope * (tokens.shape[1] - config.base_image_seq_len))
    levels = [shift * s / (1 + (shift - 1) * s) for s in np.linspace(1, 1 / settings.steps, settings.steps)] + [0.0]
    text, blank = customizer.encode_prompts([request.prompt]), customizer.encode_prompts([""])

    def predict(sigma: float, text: TextEmbeddings, with_references: bool) -> torch.Tensor:
        features = [customizer.image_features([image])[0] for image in request.references]
        prepared = customizer.prepare([features], grid) if with_references else None
        return customizer.predict(tokens, torch.tensor([sigma]), text, prepared, grid, settings.guidance_scale)

    for sigma, following in pairwise(levels):
        u, r, f = predict(sigma, blank, False), predict(sigma, blank, True), predict(sigma, text, True)
        v = normalised_dual_guidance(u, r, f, settings.guidance.image_scale, settings.guidance.text_scale)
        tokens = tokens + (following - sigma) * v
    return tokens


@torch.no_grad()
@pytest.mark.parametrize("form", ["separate", "joint"])
def test_sampling_with_kept_references_equals_computing_them_at_every_step(
    customizer: FluxCustomizer, form: str
) -> None:
    with_strong_adapter(customizer).references = form
    shared = picture(10)
    requests = [
        CustomizeRequest("a red mug", 3, (shared,)),
        CustomizeRequest("a blue mug on the beach", 4, (shared, picture(11))),
        CustomizeRequest("a mug", 5, (shared,)),
    ]
    together = customizer.sample(requests, SETTINGS, DualGuidance(SETTINGS.guidance))
    for row, request in enumerate(requests):
        expected = naive_sample(customizer, request, SETTINGS)[0]
        torch.testing.assert_close(together[row], expected, rtol=1e-3, atol=1e-4)


def test_the_separate_form_reads_references_once_and_calls_all_branches_as_one_batch_without_a_mask(
    customizer: FluxCustomizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int] = []
    batches: list[int] = []
    visible: list[torch.Tensor | None] = []
    forward = customizer.transformer.forward

    def spy(**kwargs: Any) -> Any:
        lengths.append(kwargs["encoder_hidden_states"].shape[1])
        batches.append(len(kwargs["hidden_states"]))
        if lengths[-1]:
            visible.append(kwargs["joint_attention_kwargs"]["references"].visible)
        return forward(**kwargs)

    monkeypatch.setattr(customizer.transformer, "forward", spy)
    requests = [
        CustomizeRequest("a mug", 0, (picture(10), picture(11))),
        CustomizeRequest("a red mug", 1, (picture(12), picture(13))),
    ]
    customizer.sample(requests, SETTINGS, DualGuidance(SETTINGS.guidance))
    assert lengths == [0] + [10] * SETTINGS.steps
    assert batches == [4] + [3 * len(requests)] * SETTINGS.steps
    assert visible == [None] * SETTINGS.steps


def kept_by(customizer: FluxCustomizer, requests: list[CustomizeRequest]) -> ReferenceKeys:
    return customizer._references_of(requests, customizer.token_grid(SIDE, SIDE))


@torch.no_grad()
def test_every_group_of_references_is_kept_once_however_many_branches_and_images_see_it(
    customizer: FluxCustomizer,
) -> None:
    first, second = (picture(10), picture(11)), (picture(12), picture(13))
    one = kept_by(customizer, [CustomizeRequest("a mug", 0, first)])
    several = kept_by(customizer, [CustomizeRequest("a mug", seed, first) for seed in range(3)])
    two = kept_by(customizer, [CustomizeRequest("a mug", 0, first), CustomizeRequest("a mug", 1, second)])
    tokens = 2 * 2 * 2
    assert one.bytes == several.bytes == kept_bytes(customizer.transformer, tokens)
    assert two.bytes == 2 * one.bytes
    name = next(iter(one.keys))
    assert several.layer(name)[0].shape[0] == 6
    assert several.layer(name)[0].data_ptr() == several.keys[name].data_ptr(), "a view of the group, not copies"
    torch.testing.assert_close(two.layer(name)[0], two.keys[name][[0, 1, 0, 1]])


@pytest.mark.parametrize("form", ["separate", "joint"])
@pytest.mark.parametrize("count", [1, 4])
def test_more_references_than_fit_are_refused_with_the_number_that_does(
    customizer: FluxCustomizer, monkeypatch: pytest.MonkeyPatch, count: int, form: str
) -> None:
    """What is refused does not fit by the same arithmetic, what the message recommends does."""
    customizer.references = form
    images = tuple(picture(seed) for seed in range(6))
    asked: dict[str, float] = {}
    check = customizer_module.check_references

    def spy(count: int, each: float, rest: float, device: torch.device) -> None:
        asked.update(each=each, rest=rest)
        check(count, each, rest, device)

    monkeypatch.setattr(customizer_module, "check_references", spy)
    customizer.generate_many([CustomizeRequest("a mug", 0, images)], SETTINGS)
    monkeypatch.setattr(memory, "free_bytes", lambda _: int(asked["rest"] + (count + 0.5) * asked["each"]))
    with pytest.raises(memory.MemoryLimitError, match=rf"6 references need .* {count} fit; give {count} or fewer"):
        customizer.generate_many([CustomizeRequest("a mug", 0, images)], SETTINGS)
    customizer.generate_many([CustomizeRequest("a mug", 0, images[:count])], SETTINGS)
    if form == "joint":
        return
    kept = kept_by(customizer, [CustomizeRequest("a mug", 0, images)]).bytes
    assert kept / 6 < asked["each"] < 3 * kept / 6, "keys and values, and what reading or attending takes besides"


def test_memory_that_holds_not_even_one_reference_is_said_to(
    customizer: FluxCustomizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda _: 1)
    with pytest.raises(memory.MemoryLimitError, match="0 fit; not one fits"):
        customizer.generate_many([CustomizeRequest("a mug", 0, (picture(1),))], SETTINGS)
    assert len(customizer.generate_many([CustomizeRequest("a mug", 0)], SETTINGS)) == 1


@pytest.mark.parametrize(("height", "width"), [(24, 8), (8, 40)])
def test_any_resolution_of_whole_tokens_goes_with_references_of_another_size(
    customizer: FluxCustomizer, height: int, width: int
) -> None:
    """A reference of the miniature's size and one that is not square, against the naive computation."""
    with_strong_adapter(customizer)
    settings = replace(SETTINGS, height=height, width=width)
    request = CustomizeRequest("a red mug", 3, (picture(10), np.ascontiguousarray(picture(11, 24)[:8])))
    made = customizer.sample([request], settings, DualGuidance(settings.guidance))
    torch.testing.assert_close(made, naive_sample(customizer, request, settings), rtol=1e-3, atol=1e-4)
    assert customizer.generate_many([request], settings)[0].shape == (height, width, 3)


def test_without_references_and_adapter_it_is_plain_text_guidance_of_the_base(customizer: FluxCustomizer) -> None:
    request = CustomizeRequest("a red mug on the beach", 7)
    plain = customizer.generate_many([request], SETTINGS)[0]
    with_strong_adapter(customizer)
    adapted = customizer.generate_many([request], SETTINGS)[0]
    with customizer.without_adapter():
        base = customizer.generate_many([request], replace(SETTINGS, guidance=STRONG))[0]
    np.testing.assert_array_equal(base, plain)
    assert not np.array_equal(adapted, plain)


def test_one_call_serves_any_number_of_references_of_any_size(customizer: FluxCustomizer) -> None:
    with_strong_adapter(customizer)
    requests = [
        CustomizeRequest("a mug", 1, (picture(1, 24), picture(2, 8), picture(3))),
        CustomizeRequest("a mug", 1),
        CustomizeRequest("a mug", 1, (picture(1),)),
    ]
    images = customizer.generate_many(requests, SETTINGS)
    assert [image.shape for image in images] == [(SIDE, SIDE, 3)] * 3
    alone = customizer.generate_many(requests[:1], SETTINGS)[0]
    assert np.abs(images[0].astype(int) - alone).max() <= 1


def test_the_joint_form_refuses_a_batch_of_unequal_sizes(customizer: FluxCustomizer) -> None:
    customizer.references = "joint"
    with pytest.raises(ValueError, match="reference 0 has 3 x 3 tokens in one sample of the batch and 2 x 2 in"):
        customizer.generate_many(
            [CustomizeRequest("a mug", 1, (picture(1),)), CustomizeRequest("a mug", 1, (picture(1, 24),))], SETTINGS
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps is 0; allowed: 1 to 1000"),
        ({"guidance_scale": -1}, "guidance_scale is -1; allowed: 0 to 100"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SETTINGS, **change)


def test_impossible_requests_are_refused(customizer: FluxCustomizer) -> None:
    with pytest.raises(ValueError, match="seed -1 is out of range"):
        CustomizeRequest("a mug", -1)
    with pytest.raises(ValueError, match=r"a reference is float64 \(4, 4, 3\)"):
        CustomizeRequest("a mug", 0, (np.zeros((4, 4, 3)),))
    with pytest.raises(ValueError, match="height is 12; allowed: multiples of 8"):
        customizer.generate_many([CustomizeRequest("a mug", 0, (picture(1, 12),))], SETTINGS)
