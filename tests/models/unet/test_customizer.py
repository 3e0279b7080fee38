from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_unet import picture, trained

from configs.evaluation import Guidance
from configs.training import NoisedReferences
from models import memory
from models.customizer import CustomizeRequest, CustomizeSettings, TrainingBatch
from models.guidance import DualGuidance, Step, normalised_dual_guidance, plain_dual_guidance, text_guidance
from models.unet import customizer as customizer_module
from models.unet.customizer import UNetCustomizer
from models.unet.reference import recorded_bytes
from models.unet.sampling import schedule

torch.set_num_threads(1)
SIDE = 16
STRONG = Guidance(form="plain", image_scale=5.0, text_scale=1.6)
SETTINGS = CustomizeSettings(
    height=SIDE, width=SIDE, steps=3, guidance=Guidance(image_scale=1.2, image_scale_rise=0.5, text_scale=1.6)
)
Folder = Callable[[bool], Path]


def square(side: int = SIDE) -> np.ndarray:
    """The object in the upper left quarter."""
    mask = np.zeros((side, side), bool)
    mask[: side // 2, : side // 2] = True
    return mask


def load(folder: Path, dtype: torch.dtype = torch.float32) -> UNetCustomizer:
    return UNetCustomizer.from_pretrained(folder, "cpu", dtype)


def batch_of(model: UNetCustomizer, references: list[list[np.ndarray]]) -> TrainingBatch:
    def features(image: np.ndarray) -> Any:
        return model.image_features([image], [square(len(image))])[0]

    return TrainingBatch(
        targets=[features(picture(seed)) for seed in range(len(references))],
        texts=model.text_features(["a red mug", "a blue mug on the beach", ""][: len(references)]),
        references=[[features(image) for image in own] for own in references],
    )


def losses(model: UNetCustomizer, batch: TrainingBatch, seed: int = 0) -> torch.Tensor:
    return model.losses(batch, [torch.Generator().manual_seed(seed + row) for row in range(len(batch.targets))])


def request_of(seed: int, *references: np.ndarray, prompt: str = "a red mug") -> CustomizeRequest:
    return CustomizeRequest(prompt, seed, references, tuple(square(len(own)) for own in references))


def spy_on(model: UNetCustomizer, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the U-Net is called with, what it gives back, and whether its LoRA is on."""
    calls: list[dict[str, Any]] = []
    forward = model.unet.forward
    layers = [module for module in model.unet.modules() if hasattr(module, "disable_adapters")]

    def spy(noisy: torch.Tensor, timesteps: torch.Tensor, **kwargs: Any) -> Any:
        out = forward(noisy, timesteps, **kwargs)
        text, (images,) = kwargs["encoder_hidden_states"]
        off = {bool(module.disable_adapters) for module in layers if not callable(module.disable_adapters)}
        calls.append({"noisy": noisy, "times": timesteps, "text": text, "images": images, "out": out[0], "off": off})
        return out

    monkeypatch.setattr(model.unet, "forward", spy)
    return calls


def test_loss_is_the_velocity_loss_of_the_target_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From what the U-Net was given and gave back, with diffusers' own noise and velocity of that timestep."""
    from diffusers import DDPMScheduler

    model = trained(folder)
    batch = batch_of(model, [[picture(10)], [picture(11), picture(12)]])
    calls = spy_on(model, monkeypatch)
    found = losses(model, batch, seed=5)
    target = calls[-1]
    scheduler = DDPMScheduler.from_config(model.schedule)
    clean = torch.stack([own["latents"] for own in batch.targets])
    noise = torch.stack(
        [torch.randn(clean.shape[1:], generator=torch.Generator().manual_seed(5 + row)) for row in (0, 1)]
    )
    torch.testing.assert_close(target["noisy"], scheduler.add_noise(clean, noise, target["times"]))
    wanted = scheduler.get_velocity(clean, noise, target["times"])
    torch.testing.assert_close(found, ((target["out"] - wanted) ** 2).mean(dim=(1, 2, 3)))


def test_references_are_read_in_the_base_model_noised_to_the_targets_timestep(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trained(folder)
    batch = batch_of(model, [[picture(10)], [picture(11), picture(12)]])
    calls = spy_on(model, monkeypatch)
    losses(model, batch)
    reading, target = calls
    first, second = target["times"].tolist()
    assert reading["times"].tolist() == [first, second, second]
    assert reading["off"] == {True} and target["off"] == {False}
    assert not reading["images"].any() and target["images"].any()
    assert torch.equal(reading["text"], model.encode_prompts([""]).sequence.expand(3, -1, -1))
    clean = torch.stack([own["latents"] for of_sample in batch.references for own in of_sample])
    levels = model.levels
    alpha, sigma = (part[reading["times"]].view(-1, 1, 1, 1) for part in (levels.alphas, levels.sigmas))
    noise = (reading["noisy"] - alpha * clean) / sigma
    assert not torch.allclose(noise[1], noise[2]), "every reference has noise of its own"
    assert 0.7 < noise.std() < 1.3
    assert not reading["out"].requires_grad and target["out"].requires_grad


def test_a_sample_has_the_same_loss_in_every_batch(folder: Path) -> None:
    model = trained(folder)
    batch = batch_of(model, [[picture(10)], [picture(11), picture(12)], []])
    together = losses(model, batch)
    for row in range(3):
        alone = TrainingBatch(*(part[row : row + 1] for part in (batch.targets, batch.texts, batch.references)))
        torch.testing.assert_close(losses(model, alone, seed=row)[0], together[row], rtol=1e-4, atol=1e-5)


def test_what_is_read_of_references_does_not_depend_on_the_adapter(folder: Path) -> None:
    plain, adapted = load(folder), trained(folder)
    found = []
    for model in (plain, adapted):
        reference = model.reference(model.image_features([picture(10)], [square()])[0])
        found.append(model.read([[reference]], [[torch.zeros(4, 8, 8)]], torch.tensor([300])))
    for name, hidden in found[0].hidden.items():
        assert torch.equal(hidden, found[1].hidden[name]), name


def test_the_global_image_is_one_of_the_references_and_each_is_drawn(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trained(folder)
    batch = batch_of(model, [[picture(11), picture(12)]])
    tokens = [model.image_tokens([own]) for own in batch.references[0]]
    calls = spy_on(model, monkeypatch)
    drawn = set()
    for seed in (0, 1, 11, 13):
        losses(model, batch, seed)
        (place,) = [at for at, own in enumerate(tokens) if torch.allclose(own[:, None], calls[-1]["images"])]
        drawn.add(place)
    assert drawn == {0, 1}


def test_no_image_is_the_same_in_training_and_in_the_guidances_u(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """IP-Adapter's unconditional image; zero tokens are for the pass that reads references, and without images."""
    model = trained(folder)
    with torch.no_grad():
        unconditional = model.resampler(model.encode_no_appearance()[None])
    calls = spy_on(model, monkeypatch)
    losses(model, batch_of(model, [[picture(10)], []]))
    given, dropped = calls[-1]["images"][:, 0]
    torch.testing.assert_close(dropped, unconditional[0])
    assert not torch.allclose(given, dropped)
    model.sample([request_of(0, picture(10))], SETTINGS, DualGuidance(SETTINGS.guidance))
    torch.testing.assert_close(calls[-1]["images"][:1, 0], unconditional)
    model.references = NoisedReferences(image=False)
    model.sample([request_of(0, picture(10))], SETTINGS, DualGuidance(SETTINGS.guidance))
    losses(model, batch_of(model, [[picture(10)], []]))
    assert not any(call["images"].any() for call in calls[-2 * SETTINGS.steps - 2 :])


def test_without_shared_attention_references_are_guided_by_through_the_image_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trained(folder)
    model.references = NoisedReferences(attention=False)
    calls = spy_on(model, monkeypatch)
    guidance = DualGuidance(SETTINGS.guidance)
    model.sample([request_of(0, picture(10), picture(11))], SETTINGS, guidance)
    assert [len(call["noisy"]) for call in calls] == [3] * SETTINGS.steps, "no pass reads references"
    assert all(norms.image > 0 for norms in guidance.norms()[0])
    assert len(model.generate_many([CustomizeRequest("a mug", 0, (picture(1),))], SETTINGS)) == 1, "no mask is needed"


@torch.no_grad()
def test_dropped_references_leave_the_text_to_image_model_with_its_lora(folder: Path) -> None:
    """In a batch beside samples with references, and in one without any."""
    model = trained(folder)
    noisy = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    times, text = torch.tensor([500, 500]), model.encode_prompts(["a red mug", "a mug"])
    features = model.image_features([picture(10)], [square()])[0]
    seen = model.read([[model.reference(features)], []], [[torch.zeros(4, 8, 8)], []], times)
    mixed = model.predict(noisy, times, text, model.image_tokens([features, None]), seen)
    alone = model.velocity(noisy, times, text, model.image_tokens([None, None]))
    torch.testing.assert_close(mixed[1], alone[1], atol=1e-5, rtol=1e-4)
    assert (mixed[0] - alone[0]).abs().max() > 1e-3
    assert model.read([[], []], [[], []], times) is None


def shown(model: UNetCustomizer, image: np.ndarray) -> torch.Tensor:
    """The target's prediction with one reference, whose global image is another one."""
    features = model.image_features([image], [square()])[0]
    noisy = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    times = torch.tensor([200])
    seen = model.read([[model.reference(features)]], [[torch.zeros(4, 8, 8)]], times)
    return model.predict(noisy, times, model.encode_prompts(["a mug"]), model.image_tokens([None]), seen)


@torch.no_grad()
def test_keys_behind_the_mask_change_nothing_and_those_on_the_object_do(unet_folder: Folder) -> None:
    """Of what was read, changed token by token: a pass through the reference itself mixes its pixels."""
    model = trained(unet_folder(False))
    model.references = NoisedReferences(mask_dilation=1)
    features = model.image_features([picture(10)], [square()])[0]
    reference = model.reference(features)
    assert reference.mask.sum() == 16
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor"
    from models.unet.reference import gather

    hidden = torch.randn(64, 8, generator=torch.Generator().manual_seed(3))
    before = gather([[reference]], [{name: hidden}]).hidden[name]
    inside, outside = hidden.clone(), hidden.clone()
    outside[63] += 1
    inside[0] += 1
    assert torch.equal(gather([[reference]], [{name: outside}]).hidden[name], before)
    assert not torch.equal(gather([[reference]], [{name: inside}]).hidden[name], before)
    assert before.shape == (1, 16, 8)


@torch.no_grad()
def test_masks_hide_the_background_and_grow_by_half_the_window(unet_folder: Folder) -> None:
    model = trained(unet_folder(False))
    sums = {}
    for dilation in (1, 3, 5):
        model.references = NoisedReferences(mask_dilation=dilation)
        sums[dilation] = int(model.reference(model.image_features([picture(1)], [square()])[0]).mask.sum())
    assert sums == {1: 16, 3: 25, 5: 36}
    masked = shown(model, picture(10))
    model.references = NoisedReferences(mask=False)
    assert not model.needs_masks
    assert (shown(model, picture(10)) - masked).abs().max() > 1e-4


def test_only_the_adapter_gets_gradients(folder: Path) -> None:
    model = load(folder)
    model.add_adapter(4, "self_attention", seed=3)
    losses(model, batch_of(model, [[picture(10)], []])).sum().backward()
    trained_names = set(model.adapter_parameters())
    for name, parameter in model.unet.named_parameters():
        assert (parameter.grad is not None) == (name in trained_names), name
    assert all(parameter.grad is None for parameter in model.resampler.parameters())


def test_a_step_on_a_toy_batch_lowers_its_loss(folder: Path) -> None:
    model = load(folder)
    model.add_adapter(8, "self_attention", seed=3)
    batch = batch_of(model, [[picture(10)], [picture(11), picture(12)]])
    optimizer = torch.optim.AdamW(model.adapter_parameters().values(), lr=3e-3)
    found = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = losses(model, batch).mean()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert found[-1] < 0.97 * found[0]


def test_bfloat16_trains_close_to_float32(folder: Path) -> None:
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = load(folder, dtype)
        model.add_adapter(4, "self_attention", seed=3)
        loss = losses(model, batch_of(model, [[picture(10)], [picture(11), picture(12)]]))
        loss.sum().backward()
        gradients = [parameter.grad for parameter in model.adapter_parameters().values()]
        assert {gradient.dtype for gradient in gradients} == {torch.float32}
        found[dtype] = (loss.detach(), torch.cat([own.flatten() for own in gradients]))
    torch.testing.assert_close(found[torch.bfloat16][0], found[torch.float32][0], rtol=0.1, atol=0.05)
    cosine = torch.nn.functional.cosine_similarity(found[torch.bfloat16][1], found[torch.float32][1], dim=0)
    assert cosine > 0.95


def naive_sample(model: UNetCustomizer, request: CustomizeRequest, settings: CustomizeSettings) -> torch.Tensor:
    """One image: three calls per step, one reference pass for each of them, the scheduler's own variable."""
    drawn = torch.Generator().manual_seed(request.seed)
    scheduler = schedule(model.schedule, settings.steps)
    x = torch.randn(1, 4, SIDE // 2, SIDE // 2, generator=drawn) * scheduler.init_noise_sigma
    text, blank = model.encode_prompts([request.prompt]), model.encode_prompts([""])
    nothing = model.image_tokens([None])
    combine = normalised_dual_guidance if settings.guidance.form == "normalised" else plain_dual_guidance
    features = [
        model.image_features([image], [mask])[0]
        for image, mask in zip(request.references, request.masks or (), strict=True)
    ]
    tokens = nothing
    if features:
        tokens = model.image_tokens([features[int(torch.randint(len(features), (), generator=drawn))]])
    for step, timestep in enumerate(scheduler.timesteps):
        noisy, times = scheduler.scale_model_input(x, timestep), torch.tensor([int(timestep)])
        references = [[model.reference(own) for own in features]]
        noises = [[torch.randn(own["latents"].shape, generator=drawn) for own in features]]

        def predict(text: Any, tokens: torch.Tensor, with_references: bool) -> torch.Tensor:
            seen = model.read(references, noises, times) if with_references else None  # noqa: B023
            return model.predict(noisy, times, text, tokens, seen)  # noqa: B023

        r, f = predict(blank, tokens, bool(features)), predict(text, tokens, bool(features))
        if features:
            scale = settings.guidance.image_scale + settings.guidance.image_scale_rise * step / (settings.steps - 1)
            v = combine(predict(blank, nothing, False), r, f, scale, settings.guidance.text_scale)
        else:
            v = text_guidance(r, f, settings.guidance.text_scale)
        x = scheduler.step(v, timestep, x, return_dict=False)[0]
    return x


@torch.no_grad()
@pytest.mark.parametrize("guidance", ["normalised", "plain"])
def test_a_batch_gives_what_every_request_gives_alone_step_by_step(folder: Path, guidance: str) -> None:
    """Shared references, ragged counts, another size; and the branches of Eq. 5.4 as written there."""
    model, shared = trained(folder), picture(10)
    settings = replace(SETTINGS, guidance=SETTINGS.guidance.model_copy(update={"form": guidance}))
    requests = [
        request_of(3, shared),
        request_of(4, shared, picture(11, 12), prompt="a blue mug on the beach"),
        request_of(5, shared, prompt="a mug"),
    ]
    together = model.sample(requests, settings, DualGuidance(settings.guidance))
    for row, request in enumerate(requests):
        expected = naive_sample(model, request, settings)[0]
        torch.testing.assert_close(together[row], expected, rtol=2e-3, atol=2e-3)
    alone = model.sample([request_of(6)], settings, DualGuidance(settings.guidance))
    torch.testing.assert_close(alone, naive_sample(model, request_of(6), settings), rtol=2e-3, atol=2e-3)


def test_references_are_read_once_per_step_and_all_branches_are_one_batch(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trained(folder)
    calls = spy_on(model, monkeypatch)
    model.sample([request_of(0, picture(10), picture(11))], SETTINGS, DualGuidance(SETTINGS.guidance))
    assert [len(call["noisy"]) for call in calls] == [2, 3] * SETTINGS.steps
    assert [call["off"] for call in calls] == [{True}, {False}] * SETTINGS.steps
    assert not torch.equal(calls[0]["noisy"], calls[2]["noisy"]), "references are noised anew at every step"
    assert {float(call["times"][0]) for call in calls[:2]} == {999.0}


def test_without_references_and_adapter_it_is_plain_text_guidance_of_the_base(folder: Path) -> None:
    plain = load(folder).generate_many([request_of(7)], SETTINGS)[0]
    model = trained(folder)
    adapted = model.generate_many([request_of(7)], SETTINGS)[0]
    with model.without_adapter():
        base = model.generate_many([request_of(7)], replace(SETTINGS, guidance=STRONG))[0]
    np.testing.assert_array_equal(base, plain)
    assert not np.array_equal(adapted, plain)


def test_one_call_serves_any_number_of_references(folder: Path) -> None:
    model = trained(folder)
    requests = [request_of(1, picture(1, 24), picture(2, 8), picture(3)), request_of(1), request_of(1, picture(1))]
    images = model.generate_many(requests, SETTINGS)
    assert [image.shape for image in images] == [(SIDE, SIDE, 3)] * 3
    alone = model.generate_many(requests[:1], SETTINGS)[0]
    assert np.abs(images[0].astype(int) - alone).max() <= 1


@pytest.mark.parametrize(("height", "width"), [(24, 8), (12, 40)])
def test_any_resolution_of_whole_latents_goes_with_references_of_another_size(
    folder: Path, height: int, width: int
) -> None:
    """What one request of a batch sees of its references, one of them not square, is what it sees alone."""
    model = trained(folder)
    settings = replace(SETTINGS, height=height, width=width)
    flat = (np.ascontiguousarray(picture(11, 24)[:12]), np.ascontiguousarray(square(24)[:12]))
    own = CustomizeRequest("a red mug", 3, (picture(10), flat[0]), (square(), flat[1]))
    alone = model.sample([own], settings, DualGuidance(settings.guidance))
    together = model.sample([own, request_of(4, picture(12))], settings, DualGuidance(settings.guidance))
    torch.testing.assert_close(together[:1], alone, rtol=2e-3, atol=2e-3)
    changed = replace(own, references=(own.references[0], 255 - own.references[1]))
    assert not torch.allclose(model.sample([changed], settings, DualGuidance(settings.guidance)), alone, atol=1e-3)
    assert model.generate_many([own], settings)[0].shape == (height, width, 3)


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 10)])
def test_recorded_bytes_are_those_of_what_the_layers_record(folder: Path, height: int, width: int) -> None:
    model = trained(folder)
    with model._exchange.recording() as seen:
        text = model.encode_prompts([""])
        model.velocity(torch.zeros(1, 4, height, width), torch.tensor([5]), text, model.image_tokens([None]))
    assert sum(hidden.nbytes for hidden in seen.values()) == recorded_bytes(model.unet, height, width)


def test_more_references_than_fit_are_refused_with_the_number_that_does(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, asked = trained(folder), {}

    def spy(count: int, each: float, rest: float, device: torch.device) -> None:
        asked.update(each=each, rest=rest)

    with monkeypatch.context() as patched:
        patched.setattr(customizer_module, "check_references", spy)
        model.generate_many([request_of(0, *map(picture, range(5)))], SETTINGS)
    assert asked["each"] >= 2 * recorded_bytes(model.unet, SIDE // 2, SIDE // 2)
    monkeypatch.setattr(memory, "free_bytes", lambda _: int(asked["rest"] + 2.5 * asked["each"]))
    with pytest.raises(memory.MemoryLimitError, match=r"5 references need .* 2 fit; give 2 or fewer"):
        model.generate_many([request_of(0, *map(picture, range(5)))], SETTINGS)
    assert len(model.generate_many([request_of(0, *map(picture, range(2)))], SETTINGS)) == 1


def test_s_i_rises_linearly_from_the_first_step_to_the_last() -> None:
    guidance = DualGuidance(Guidance(image_scale=8.0, image_scale_rise=5.0))
    scales = [guidance.scales(Step(number, 50, 0.5, torch.zeros(1), (1, 0)))[0] for number in range(50)]
    np.testing.assert_allclose(scales, np.linspace(8.0, 13.0, 50))


def test_missing_masks_are_an_error_and_wrong_ones_too(folder: Path) -> None:
    model = load(folder)
    with pytest.raises(ValueError, match="references come without object masks, which this model was trained with"):
        model.generate_many([CustomizeRequest("a mug", 0, (picture(1),))], SETTINGS)
    with pytest.raises(ValueError, match="2 masks for 1 references; give one per reference"):
        CustomizeRequest("a mug", 0, (picture(1),), (square(), square()))
    with pytest.raises(ValueError, match=r"a mask is uint8 \(16, 16\); its reference needs bool \(16, 16\)"):
        CustomizeRequest("a mug", 0, (picture(1),), (square().astype(np.uint8),))
    with pytest.raises(ValueError, match="a mask is empty; it must be true on the object"):
        CustomizeRequest("a mug", 0, (picture(1),), (~square() & square(),))
    model.references = NoisedReferences(mask=False)
    assert len(model.generate_many([CustomizeRequest("a mug", 0, (picture(1),))], SETTINGS)) == 1
