"""Tuning on tiny models of every kind: what is trained, what it makes, and that nothing of it stays."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_flux
import tiny_unet
import torch
from safetensors.torch import load_file
from torch import nn

from configs.evaluation import CustomDiffusion, DreamBooth, Guidance
from configs.schema import ModelRef
from configs.training import NoisedReferences
from data.ids import seed_for
from models.customizer import Customizer, CustomizeRequest, CustomizeSettings, load_customizer
from models.header import FILE_NAME
from models.tuning import tune
from models.tuning.prior import class_images
from models.tuning.run import Concept, Run
from models.tuning.tune import cache_file, opened, without_image

KINDS = ("sd15", "sdxl", "flux")
UNETS = ("sd15", "sdxl")
SIDE = 16
GUIDANCE = Guidance(form="plain", text_scale=3.0)
PROMPT = "a dark mug on the beach"
"""With the identifier `dark`."""
LORA = DreamBooth(token="dark", steps=3, batch=2, learning_rate=0.05, rank=2)
KEYS = CustomDiffusion(
    token="dark", prompt="a {token} {noun}", steps=3, batch=2, learning_rate=0.05, prior_images=0, weight_decay=0.0
)
ALLOWED = [*((kind, LORA) for kind in KINDS), *((kind, KEYS) for kind in UNETS)]
CONCEPT = Concept("mug-1", "mug", (tiny_unet.picture(1), tiny_unet.picture(2)))


@pytest.fixture(scope="module")
def refs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelRef]:
    root = tmp_path_factory.mktemp("models")
    return {
        "sd15": tiny_unet.unet_ref(root / "sd15"),
        "sdxl": tiny_unet.unet_ref(root / "sdxl", sdxl=True),
        "flux": tiny_flux.flux_ref(root / "flux"),
    }


@pytest.fixture
def make_run(refs: dict[str, ModelRef], tmp_path: Path) -> Callable[..., Run]:
    def make(kind: str, cache: str = "cache", seed: int = 0) -> Run:
        sampling = CustomizeSettings(SIDE, SIDE, 2, 1.0, GUIDANCE)
        return Run(loaded(refs[kind]), refs[kind], sampling, 2, seed, tmp_path / cache)

    return make


def loaded(ref: ModelRef, dtype: str = "float32") -> Customizer:
    return load_customizer(ref, "cpu", dtype, NoisedReferences() if ref.architecture == "unet" else "separate")


def adapted(customizer: Customizer, folder: Path) -> Customizer:
    """With a LoRA as if it had been trained on a dataset, loaded for inference."""
    customizer.add_adapter(2, "self_attention" if hasattr(customizer, "unet") else "attention_feedforward", 0)
    generator = torch.Generator().manual_seed(1)
    for weight in customizer.adapter_parameters().values():
        weight.data = 0.3 * torch.randn(weight.shape, generator=generator)
    folder.mkdir(parents=True)
    (folder / FILE_NAME).write_bytes(customizer.adapter_file({}))
    return customizer


def image(run: Run, prompt: str = PROMPT) -> np.ndarray:
    return run.customizer.generate_many([CustomizeRequest(prompt, 5)], run.sampling)[0]


def tuned_image(run: Run, settings: tune.Settings, concept: Concept = CONCEPT) -> np.ndarray:
    with tune.tuned(run, concept, settings):
        return image(run)


def alike(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.abs(one.astype(int) - other).max() <= 1)


def state_of(customizer: Customizer) -> dict[str, Any]:
    """All that a model is, by value."""
    found: dict[str, Any] = {"references": customizer.references, "tokenizers": customizer.tokenizers}
    for name, part in {"network": customizer.network, **dict(enumerate(customizer.text_encoders))}.items():
        for own, module in part.named_modules():
            found[f"{name}/{own}"] = type(module)
            found[f"{name}/{own}/adapters"] = getattr(module, "active_adapters", None) or None
            found[f"{name}/{own}/off"] = getattr(module, "disable_adapters", None)
        for own, weight in part.named_parameters():
            found[f"{name}/{own}"] = (weight.detach().float().numpy().tobytes(), weight.dtype, weight.requires_grad)
        found[f"{name}/config"] = str(getattr(part, "peft_config", None) or None)
    return {key: value for key, value in found.items() if not callable(value) or isinstance(value, type)}


def linear_layers(network: nn.Module) -> dict[str, nn.Linear]:
    return {name: module for name, module in network.named_modules() if isinstance(module, nn.Linear)}


@pytest.mark.parametrize("kind", KINDS)
def test_dreambooth_trains_a_lora_on_all_attention_and_nothing_else(make_run: Callable[..., Run], kind: str) -> None:
    run = make_run(kind)
    parts = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "attn2.to_q", "attn2.to_k", "attn2.to_v")
    wanted = (*parts, "attn2.to_out.0")
    if kind == "flux":
        wanted = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "attn.add_q_proj", "attn.add_k_proj")
        wanted += ("attn.add_v_proj", "attn.to_add_out")
    layers = {name for name in linear_layers(run.customizer.network) if name.endswith(wanted)}
    _moved_only(
        run,
        LORA,
        {f"{name}.lora_{part}.tuning.weight" for name in layers for part in "AB"},
    )


@pytest.mark.parametrize("kind", UNETS)
def test_custom_diffusion_trains_text_keys_and_values_and_one_row(make_run: Callable[..., Run], kind: str) -> None:
    run = make_run(kind)
    layers = {name for name in linear_layers(run.customizer.network) if name.endswith(("attn2.to_k", "attn2.to_v"))}
    rows = {f"text_encoders.{number}.token" for number in range(1 + (kind == "sdxl"))}
    _moved_only(run, KEYS, {f"{name}.weight" for name in layers} | rows)


def _moved_only(run: Run, settings: tune.Settings, wanted: set[str]) -> None:
    """Every parameter of these names moves, and no other weight of the model, the table of embeddings included."""
    parts = {"network": run.customizer.network, **dict(enumerate(run.customizer.text_encoders))}
    with opened(run, CONCEPT, settings) as parameters:
        assert set(parameters) == wanted
        own = {id(weight) for weight in parameters.values()}
        everything = {f"{part}/{name}": one for part in parts for name, one in parts[part].named_parameters()}
        before = {name: one.detach().clone() for name, one in everything.items()}
        tune.train(run, CONCEPT, settings, [], parameters)
        for name, one in everything.items():
            assert torch.equal(one, before[name]) != (id(one) in own), name


@pytest.mark.parametrize(
    ("kind", "settings"), ALLOWED, ids=lambda own: own if isinstance(own, str) else type(own).__name__
)
@pytest.mark.parametrize("with_adapter", [False, True], ids=["base", "checkpoint"])
def test_the_model_is_afterwards_as_it_was(
    make_run: Callable[..., Run], tmp_path: Path, kind: str, settings: tune.Settings, with_adapter: bool
) -> None:
    run = make_run(kind)
    if with_adapter:
        adapted(run.customizer, tmp_path / "adapter")
    before, plain = state_of(run.customizer), image(run)
    with tune.tuned(run, CONCEPT, settings):
        assert not alike(image(run), plain)
    assert state_of(run.customizer) == before
    assert np.array_equal(image(run), plain)
    with pytest.raises(ZeroDivisionError), tune.tuned(run, CONCEPT, settings):
        raise ZeroDivisionError
    assert state_of(run.customizer) == before


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_takes_no_part(make_run: Callable[..., Run], tmp_path: Path, kind: str) -> None:
    alone, beside = make_run(kind, "alone"), make_run(kind, "beside")
    adapted(beside.customizer, tmp_path / "adapter")
    for method in (LORA,) if kind == "flux" else (LORA, KEYS):
        assert alike(tuned_image(alone, method), tuned_image(beside, method))


@pytest.mark.parametrize("kind", KINDS)
def test_tuned_lora_is_the_base_with_the_products_added_to_its_weights(
    make_run: Callable[..., Run], refs: dict[str, ModelRef], kind: str
) -> None:
    run = make_run(kind)
    made = tuned_image(run, LORA)
    weights = load_file(cache_file(run, CONCEPT, LORA))
    by_hand = replace(run, customizer=loaded(refs[kind]))
    with without_image(by_hand.customizer), torch.no_grad():
        for name, layer in linear_layers(by_hand.customizer.network).items():
            if f"{name}.lora_A.tuning.weight" in weights:
                down, up = (weights[f"{name}.lora_{part}.tuning.weight"] for part in "AB")
                layer.weight += up @ down
        assert alike(made, image(by_hand))


@pytest.mark.parametrize("kind", UNETS)
def test_custom_diffusion_is_the_base_with_the_weights_written_in(
    make_run: Callable[..., Run], refs: dict[str, ModelRef], kind: str
) -> None:
    run = make_run(kind)
    made = tuned_image(run, KEYS)
    weights = load_file(cache_file(run, CONCEPT, KEYS))
    by_hand = replace(run, customizer=loaded(refs[kind]))
    model = by_hand.customizer
    with without_image(model), torch.no_grad():
        for number, (encoder, tokenizer) in enumerate(zip(model.text_encoders, model.tokenizers, strict=True)):
            row = tokenizer.convert_tokens_to_ids("dark")
            encoder.get_input_embeddings().weight[row] = weights.pop(f"text_encoders.{number}.token")
        for name, weight in weights.items():
            model.network.get_parameter(name).copy_(weight)
        assert alike(made, image(by_hand))


@pytest.mark.parametrize(
    ("kind", "settings"), [("sd15", LORA), ("flux", LORA), ("sd15", KEYS)], ids=["lora-unet", "lora-flux", "keys-unet"]
)
def test_the_loss_falls_on_one_image(make_run: Callable[..., Run], kind: str, settings: tune.Settings) -> None:
    run = make_run(kind)
    one = Concept("mug-1", "mug", CONCEPT.references[:1])
    longer = settings.model_copy(update={"steps": 25, "learning_rate": 0.05})
    with without_image(run.customizer):
        before = loss_of(run, one)
        with tune.tuned(run, one, longer):
            after = loss_of(run, one)
    assert after < 0.95 * before


@torch.no_grad()
def loss_of(run: Run, concept: Concept) -> float:
    """Of 32 noises and levels, always the same."""
    images = run.customizer.image_features(concept.references * 32, [np.ones((SIDE, SIDE), bool)] * 32)
    texts = run.customizer.text_features(["a dark mug"]) * 32
    return tune.losses_of(run.customizer, images, texts, seed=3).mean().item()


@pytest.mark.parametrize("settings", [LORA, KEYS], ids=["dreambooth", "custom_diffusion"])
def test_weights_are_tuned_in_float32_and_used_in_the_dtype_of_the_model(
    make_run: Callable[..., Run], refs: dict[str, ModelRef], settings: tune.Settings
) -> None:
    run = replace(make_run("sdxl"), customizer=loaded(refs["sdxl"], "bfloat16"))
    before, plain = state_of(run.customizer), image(run)
    assert not alike(tuned_image(run, settings), plain)
    assert {own.dtype for own in load_file(cache_file(run, CONCEPT, settings)).values()} == {torch.float32}
    assert state_of(run.customizer) == before


@pytest.mark.parametrize("settings", [LORA, KEYS], ids=["dreambooth", "custom_diffusion"])
def test_what_was_tuned_is_not_tuned_again(
    make_run: Callable[..., Run], refs: dict[str, ModelRef], settings: tune.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed evaluation goes on in another process: another model, the same folder."""
    run = make_run("sd15")
    first = tuned_image(run, settings)
    files = {path: path.read_bytes() for path in run.cache.iterdir()}
    monkeypatch.setattr(tune, "train", lambda *_: pytest.fail("tuned again"))
    assert np.array_equal(tuned_image(replace(run, customizer=loaded(refs["sd15"])), settings), first)
    assert {path: path.read_bytes() for path in run.cache.iterdir()} == files


def test_tuned_weights_are_kept_by_all_that_they_follow_from(make_run: Callable[..., Run]) -> None:
    run = make_run("sd15")
    others = [
        (run, CONCEPT, LORA),
        (run, CONCEPT, KEYS),
        (run, CONCEPT, LORA.model_copy(update={"steps": 4})),
        (run, Concept("mug-1", "cup", CONCEPT.references), LORA),
        (run, Concept("mug-1", "mug", CONCEPT.references[::-1]), LORA),
        (run, Concept("mug-2", "mug", CONCEPT.references), LORA),
        (replace(run, seed=1), CONCEPT, LORA),
        (replace(run, base=run.base.model_copy(update={"revision": "other"})), CONCEPT, LORA),
    ]
    assert len({cache_file(*one) for one in others}) == len(others)


def test_an_object_is_tuned_alike_whatever_was_tuned_before(make_run: Callable[..., Run]) -> None:
    other = Concept("mug-2", "mug", (tiny_unet.picture(7),))
    settings = LORA.model_copy(update={"prior_images": 3})
    first, second = make_run("sd15", "first"), make_run("sd15", "second")
    tuned_image(second, settings, other)
    torch.rand(3)
    assert np.array_equal(tuned_image(first, settings), tuned_image(second, settings))
    assert not alike(tuned_image(first, settings), tuned_image(make_run("sd15", "third", seed=1), settings))


def test_class_images_are_made_by_the_base_model_once_for_a_class(
    make_run: Callable[..., Run], refs: dict[str, ModelRef], tmp_path: Path
) -> None:
    run = make_run("sd15")
    adapted(run.customizer, tmp_path / "adapter")
    with without_image(run.customizer):
        made = class_images(run, "a mug", 3)
    base = loaded(refs["sd15"])
    with without_image(base):
        for number, own in enumerate(made):
            request = CustomizeRequest("a mug", seed_for(0, "tuning/class", f"a mug-{number}"))
            assert alike(base.generate_many([request], run.sampling)[0], own)
    run.customizer.generate_many = lambda *_: pytest.fail("made again")
    assert all(np.array_equal(*pair) for pair in zip(class_images(run, "a mug", 3), made, strict=True))


def test_the_loss_of_class_images_counts_by_its_weight(make_run: Callable[..., Run]) -> None:
    """The first step's loss is the references' plus weight times the class images': a line in the weight."""
    run = make_run("sd15")
    first = {}
    for weight in (0.0, 1.0, 3.0):
        settings = LORA.model_copy(update={"steps": 1, "prior_weight": weight})
        with opened(run, CONCEPT, settings) as parameters:
            first[weight] = tune.train(run, CONCEPT, settings, [tiny_unet.picture(9)], parameters)[0]
    assert first[1.0] > first[0.0] + 0.1
    assert first[3.0] - first[0.0] == pytest.approx(3 * (first[1.0] - first[0.0]), rel=1e-4)
    losses = torch.tensor([1.0, 3.0, 10.0, 20.0])
    assert tune.objective(losses, LORA.model_copy(update={"prior_weight": 0.5})) == 2.0 + 0.5 * 15.0
    assert tune.objective(losses[:2], LORA) == 2.0


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("sd15", LORA.model_copy(update={"token": "sks"}), "evaluate.dreambooth.token is 'sks', which a tokenizer"),
        ("flux", LORA.model_copy(update={"token": "sks"}), "evaluate.dreambooth.token is 'sks', which a tokenizer"),
        ("sdxl", KEYS.model_copy(update={"token": "ktn"}), "evaluate.custom_diffusion.token is 'ktn', which a token"),
        ("sd15", KEYS.model_copy(update={"token": "dark red"}), "is 'dark red', 2 tokens of the model's; set it to"),
        ("flux", KEYS, "custom_diffusion trains the keys and values of text cross-attention, and this model has none"),
    ],
)
def test_what_cannot_be_tuned_is_refused_with_what_to_set(
    make_run: Callable[..., Run], kind: str, settings: tune.Settings, message: str
) -> None:
    run = make_run(kind)
    with pytest.raises(ValueError, match=message), tune.tuned(run, CONCEPT, settings):
        pass


def test_a_loss_that_is_not_finite_stops_tuning_and_keeps_nothing(make_run: Callable[..., Run]) -> None:
    run = make_run("sd15")
    before = state_of(run.customizer)
    settings = LORA.model_copy(update={"steps": 50, "learning_rate": 1e6, "max_grad_norm": 1e30})
    with pytest.raises(tune.TuningError, match=r"mug-1: loss is (nan|inf) at step \d+ of DreamBooth; lower its"):
        tuned_image(run, settings)
    assert state_of(run.customizer) == before and not run.cache.exists()
