"""Whole sampling runs of a tiny FLUX: parity with diffusers' pipelines, and what every setting changes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FluxControlPipeline, FluxPipeline, FluxTransformer2DModel

from data.correspondence import Correspondence
from models.flux.generator import FluxGenerator
from models.flux.layout import pack
from models.flux.model import FluxModel
from models.generator import GenerateSettings, ImageSetGenerator, SetRequest
from models.latents import initial_noise

Folder = Callable[[bool, bool], Path]
SIDE = 32
PLAIN = GenerateSettings(
    height=SIDE,
    width=SIDE,
    steps=3,
    guidance_scale=3.5,
    true_cfg_scale=1.0,
    negative_prompt="blurry",
    msa=False,
    warp="none",
)
SHARED = replace(PLAIN, msa=True)
PROMPTS = ("a red mug on the beach", "a striped mug in the forest", "a blue mug", "a dark mug")


@pytest.fixture(scope="module")
def depth_model(flux_folder: Folder) -> FluxGenerator:
    return FluxGenerator.from_pretrained(flux_folder(True, False))


@pytest.fixture(scope="module")
def text_model(flux_folder: Folder) -> FluxGenerator:
    return FluxGenerator.from_pretrained(flux_folder(False, True), "cpu", "float32")


def shift(cells: int = 16) -> Correspondence:
    """Everything one token to the right."""
    centres = (np.arange(cells, dtype=np.float32) + 0.5) / cells
    x, y = np.meshgrid(centres + 0.25, centres)
    return Correspondence(uv=np.stack([x, y], -1), visible=np.ones((cells, cells), bool))


def request(size: int = 2, first_seed: int = 10, depth: bool = False) -> SetRequest:
    rng = np.random.default_rng(size)
    masks = np.zeros((size, SIDE, SIDE), bool)
    for image in range(size):
        masks[image, 8 : 16 + 4 * image, 8:24] = True
    return SetRequest(
        prompts=PROMPTS[:size],
        seeds=tuple(range(first_seed, first_seed + size)),
        depth=rng.random((size, SIDE, SIDE), dtype=np.float32) if depth else None,
        masks=masks,
        correspondences={(t, s): shift() for t in range(size) for s in range(size) if t != s},
    )


def difference(model: FluxGenerator, one: SetRequest, other: SetRequest, a: GenerateSettings, b: GenerateSettings):
    """Largest difference of the clean tokens, per image."""
    return (model.sample([one], a) - model.sample([other], b)).abs().amax((1, 2))


def noise_of(model: FluxModel, seeds: tuple[int, ...]) -> torch.Tensor:
    return pack(initial_noise(seeds, model.latent_channels, 8, 8))


def pipeline_parts(model: FluxModel) -> dict[str, object]:
    names = ("transformer", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
    return {name: getattr(model, name) for name in names}


def test_without_sharing_it_is_the_control_pipeline(flux_folder: Folder, depth_model: FluxGenerator) -> None:
    sent = request(2, depth=True)
    pipeline = FluxControlPipeline(**pipeline_parts(FluxModel.from_pretrained(flux_folder(True, False))))
    pipeline.set_progress_bar_config(disable=True)
    common = {
        "prompt": list(sent.prompts),
        "control_image": depth_model.encode_depth(sent.depth),
        "latents": noise_of(depth_model, sent.seeds),
        "height": SIDE,
        "width": SIDE,
        "num_inference_steps": 3,
        "max_sequence_length": 10,
    }
    expected = pipeline(**common, output_type="latent").images
    torch.testing.assert_close(depth_model.sample([sent], PLAIN), expected, atol=1e-5, rtol=1e-5)
    pixels = pipeline(**common, output_type="np").images
    assert np.abs(depth_model.generate(sent, PLAIN).images / 255.0 - pixels).max() <= 0.51 / 255 + 1e-5


def test_true_guidance_is_the_text_pipelines_from_the_first_step_on(
    flux_folder: Folder, text_model: FluxGenerator
) -> None:
    sent = request(2)
    pipeline = FluxPipeline(**pipeline_parts(FluxModel.from_pretrained(flux_folder(False, True))))
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        prompt=list(sent.prompts),
        negative_prompt=["blurry"] * 2,
        true_cfg_scale=2.5,
        guidance_scale=3.5,
        latents=noise_of(text_model, sent.seeds),
        height=SIDE,
        width=SIDE,
        num_inference_steps=3,
        max_sequence_length=10,
        output_type="latent",
    ).images
    settings = replace(PLAIN, true_cfg_scale=2.5, cfg_start_step=0)
    torch.testing.assert_close(text_model.sample([sent], settings), expected, atol=1e-5, rtol=1e-5)


def test_blank_depth_is_a_black_image_and_depth_changes_the_result(depth_model: FluxGenerator) -> None:
    none, depth = request(2), request(2, depth=True)
    black = replace(none, depth=np.zeros((2, SIDE, SIDE), np.float32))
    assert torch.equal(
        depth_model.encode_depth(black.depth), depth_model.encode_images(np.zeros((2, SIDE, SIDE, 3), np.uint8))
    )
    assert difference(depth_model, none, black, PLAIN, PLAIN).max() == 0
    assert difference(depth_model, none, depth, PLAIN, PLAIN).min() > 1e-3
    mixed = depth_model.sample([none, depth], PLAIN)
    torch.testing.assert_close(mixed, torch.cat([depth_model.sample([r], PLAIN) for r in (none, depth)]))


def test_images_are_independent_without_sharing_and_not_with_it(depth_model: FluxGenerator) -> None:
    sent = request(3)
    other = replace(sent, seeds=(sent.seeds[0], 90, 91))
    assert difference(depth_model, sent, other, PLAIN, PLAIN)[0] < 1e-5
    assert difference(depth_model, sent, other, SHARED, SHARED)[0] > 1e-3
    single = replace(sent, prompts=sent.prompts[:1], seeds=sent.seeds[:1], masks=sent.masks[:1])
    alone, together = depth_model.sample([single], PLAIN), depth_model.sample([sent], PLAIN)
    torch.testing.assert_close(alone[0], together[0], atol=1e-5, rtol=1e-5)
    assert torch.equal(depth_model.sample([single], SHARED), alone)


@pytest.mark.parametrize("warp", ["none", "latents", "features"])
@pytest.mark.parametrize("rope", ["release", "stacked"])
def test_a_set_does_not_depend_on_its_batch(depth_model: FluxGenerator, warp: str, rope: str) -> None:
    settings = replace(SHARED, true_cfg_scale=2.0, warp=warp, warp_share=0.5, rope=rope)
    sets = [request(2, 10, depth=True), request(3, 40), request(2, 70)]
    tokens = [depth_model.sample([one], settings) for one in sets]
    together = depth_model.sample([sets[0], sets[2]], settings)
    torch.testing.assert_close(together, torch.cat([tokens[0], tokens[2]]), atol=2e-5, rtol=1e-4)
    made = depth_model.generate_many(sets, settings)
    assert [len(each.images) for each in made] == [2, 3, 2]
    for each, one, sent in zip(made, tokens, sets, strict=True):
        assert np.abs(each.images.astype(int) - depth_model.decode(one, SIDE, SIDE)).max() <= 1
        assert each.masks is sent.masks


def test_each_prompt_is_encoded_once_and_alone(depth_model: FluxGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[str] = []
    encode = depth_model._encode_prompts
    monkeypatch.setattr(depth_model, "_encode_prompts", lambda prompts: encoded.extend(prompts) or encode(prompts))
    sets, settings = [request(2), request(3, 40)], replace(SHARED, true_cfg_scale=2.0)
    texts = depth_model.encode_sets(sets, settings)
    assert encoded == [*PROMPTS[:3], "blurry"] == list(texts)
    given = depth_model.generate_many(sets, settings, texts)
    assert len(encoded) == 4, "nothing is encoded again"
    for one, other in zip(given, depth_model.generate_many(sets, settings), strict=True):
        assert np.array_equal(one.images, other.images)


TEXT = ["text_encoder_2"] * 2


@pytest.mark.parametrize(
    ("parts", "moved"), [("all", [*TEXT, *["vae"] * 2, *["transformer"] * 2, *["vae"] * 2]), ("text_encoders", TEXT)]
)
def test_offloaded_parts_are_on_the_device_only_while_they_work(
    parts: str, moved: list[str], flux_folder: Folder, depth_model: FluxGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = FluxGenerator.from_pretrained(flux_folder(True, False))
    model.offload("cpu", parts)
    moves: list[str] = []
    for name in ("transformer", "vae", "text_encoder_2"):
        part = getattr(model, name)
        monkeypatch.setattr(part, "to", lambda device, part=part, name=name: moves.append(f"{name} {device}") or part)
    model._working.acquire()  # one thread may nest what it does
    sent = request(2, depth=True)
    made = model.generate(sent, SHARED)
    model._working.release()
    assert [move.split()[0] for move in moves] == moved
    assert np.array_equal(made.images, depth_model.generate(sent, SHARED).images)


def test_tiles_are_decoded_alike_and_only_where_asked_for(depth_model: FluxGenerator) -> None:
    sent, wide = replace(request(2), masks=np.ones((2, 64, 64), bool)), replace(SHARED, height=64, width=64)
    vae = depth_model.vae
    sizes = vae.tile_sample_min_size, vae.tile_latent_min_size
    vae.tile_sample_min_size, vae.tile_latent_min_size = 32, 8
    try:
        whole = depth_model.generate(sent, wide).images.astype(int)
        tiled = depth_model.generate(sent, replace(wide, vae_tiling=True)).images.astype(int)
        again = depth_model.generate(sent, wide).images.astype(int)
    finally:
        vae.tile_sample_min_size, vae.tile_latent_min_size = sizes
    assert np.array_equal(whole, again)
    assert not np.array_equal(whole, tiled)
    assert np.corrcoef(whole.ravel(), tiled.ravel())[0, 1] > 0.7, "random weights: borders of tiles show"


def test_scale_1_never_uses_the_negative_prompt(depth_model: FluxGenerator) -> None:
    sent = request(2)
    darker = replace(SHARED, negative_prompt="dark")
    assert difference(depth_model, sent, sent, SHARED, darker).max() == 0
    guided, darker = replace(SHARED, true_cfg_scale=2.5), replace(darker, true_cfg_scale=2.5)
    assert difference(depth_model, sent, sent, SHARED, guided).min() > 1e-4
    assert difference(depth_model, sent, sent, guided, darker).min() > 1e-4
    late = replace(guided, cfg_start_step=guided.steps)
    assert difference(depth_model, sent, sent, SHARED, late).max() == 0


def test_negative_pass_is_shared_like_the_positive_one(depth_model: FluxGenerator) -> None:
    """With the negative prompt equal to every prompt both passes agree, so any scale gives the unguided result."""
    sent = replace(request(3), prompts=("a mug",) * 3)
    guided = replace(SHARED, negative_prompt="a mug", true_cfg_scale=7.0)
    assert difference(depth_model, sent, sent, SHARED, guided).max() < 1e-4


@pytest.mark.parametrize(
    "change",
    [
        {"msa_first_step": "masked"},
        {"mask_dilation": 3},
        {"rope": "stacked"},
        {"warp": "latents"},
        {"warp": "features"},
        {"prompt_suffix": "beach"},
        {"steps": 4},
    ],
)
def test_every_setting_reaches_the_result(depth_model: FluxGenerator, change: dict[str, object]) -> None:
    sent = request(3)
    assert difference(depth_model, sent, sent, SHARED, replace(SHARED, **change)).max() > 1e-5


def test_embedded_guidance_reaches_models_that_have_it(depth_model: FluxGenerator, text_model: FluxGenerator) -> None:
    sent, stronger = request(2), replace(SHARED, guidance_scale=10.0)
    assert difference(text_model, sent, sent, SHARED, stronger).min() > 1e-5
    assert difference(depth_model, sent, sent, SHARED, stronger).max() == 0


def test_the_first_step_ignores_the_mask_and_no_later_one_does(depth_model: FluxGenerator) -> None:
    sent = request(2)
    empty = replace(sent, masks=np.zeros_like(sent.masks))
    one_step, masked = replace(SHARED, steps=1), replace(SHARED, steps=1, msa_first_step="masked")
    assert difference(depth_model, sent, empty, one_step, one_step).max() == 0
    assert difference(depth_model, sent, empty, masked, masked).max() > 1e-5
    assert difference(depth_model, empty, empty, masked, replace(PLAIN, steps=1)).max() < 1e-5
    assert difference(depth_model, sent, empty, SHARED, SHARED).max() > 1e-5


@pytest.mark.parametrize("warp", ["latents", "features"])
def test_warping_stops_after_its_share(depth_model: FluxGenerator, warp: str) -> None:
    sent = request(2)
    settings = [replace(PLAIN, steps=4, warp=warp, warp_share=share) for share in (0.0, 0.25, 0.2, 0.5)]
    unwarped = replace(PLAIN, steps=4)
    assert difference(depth_model, sent, sent, unwarped, settings[0]).max() == 0
    assert difference(depth_model, sent, sent, settings[1], settings[2]).max() == 0
    assert difference(depth_model, sent, sent, settings[1], settings[3]).max() > 1e-5
    changed = difference(depth_model, sent, sent, unwarped, settings[1])
    assert changed[0] < 1e-5 and changed[1] > 1e-4


def test_same_seeds_same_bytes_whatever_the_global_generator(depth_model: FluxGenerator) -> None:
    sent, settings = request(2, depth=True), replace(SHARED, true_cfg_scale=2.0, warp="latents")
    torch.manual_seed(1)
    first = depth_model.generate(sent, settings).images
    torch.manual_seed(2)
    assert np.array_equal(first, depth_model.generate(sent, settings).images)
    assert first.shape == (2, SIDE, SIDE, 3) and first.dtype == np.uint8
    assert not np.array_equal(first, depth_model.generate(replace(sent, seeds=(10, 12)), settings).images)


def test_images_need_not_be_square_and_bfloat16_is_close(flux_folder: Folder, depth_model: FluxGenerator) -> None:
    wide = replace(SHARED, width=48, true_cfg_scale=2.0, warp="features")
    sent = replace(request(2), masks=np.ones((2, SIDE, 48), bool))
    half = FluxGenerator.from_pretrained(flux_folder(True, False), dtype="bfloat16")
    exact, rough = depth_model.sample([sent], wide), half.sample([sent], wide)
    assert exact.shape == (2, 24, 16) and rough.dtype == torch.float32
    assert 0 < (exact - rough).abs().mean() < 0.05
    assert half.generate(sent, wide).images.shape == (2, SIDE, 48, 3)


def test_a_decoded_encoding_is_the_autoencoders_own(depth_model: FluxGenerator) -> None:
    image = np.random.default_rng(0).integers(0, 256, (2, SIDE, 24, 3), dtype=np.uint8)
    tokens = depth_model.encode_images(image)
    assert tokens.shape == (2, 12, 16)
    with torch.no_grad():
        pixels = torch.from_numpy(image).permute(0, 3, 1, 2) / 127.5 - 1
        expected = depth_model.vae(pixels).sample.permute(0, 2, 3, 1)
    decoded = depth_model.decode(tokens, SIDE, 24)
    assert np.abs(decoded - ((expected / 2 + 0.5).clamp(0, 1) * 255).numpy()).max() <= 0.51


def test_encodings_can_be_trained_on(depth_model: FluxGenerator) -> None:
    layer = torch.nn.Linear(16, 1)
    text = depth_model.encode_prompts(["a mug"])
    layer(text.sequence).sum().backward()
    layer(depth_model.encode_images(np.zeros((1, SIDE, SIDE, 3), np.uint8))).sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": ()}, "prompts is empty"),
        ({"seeds": (1,)}, "1 seeds for 2 prompts"),
        ({"seeds": (1, -1)}, "seed -1 is out of range"),
        ({"depth": np.full((2, SIDE, SIDE), 1.5, np.float32)}, "depth reaches from 1.5 to 1.5; allowed: 0 to 1"),
        ({"depth": np.full((2, SIDE, SIDE), np.nan, np.float32)}, "depth reaches from nan"),
        ({"depth": np.zeros((2, SIDE, SIDE), np.uint8)}, "depth holds uint8"),
        ({"masks": np.zeros((3, SIDE, SIDE), bool)}, r"masks has shape \(3, 32, 32\)"),
    ],
)
def test_requests_that_do_not_fit_together_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(request(2), **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps is 0; allowed: 1 to 1000"),
        ({"true_cfg_scale": 0.5}, "true_cfg_scale is 0.5"),
        ({"mask_dilation": 2}, "mask_dilation is 2; allowed: odd"),
        ({"warp_share": 1.5}, "warp_share is 1.5"),
        ({"warp": "pixels"}, "warp is 'pixels'; allowed: none, latents, features"),
        ({"rope": "tall"}, "rope is 'tall'"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(PLAIN, **change)


def test_requests_that_the_model_cannot_serve_are_refused(
    depth_model: FluxGenerator, text_model: FluxGenerator
) -> None:
    cases = [
        (text_model, request(2, depth=True), PLAIN, "depth is given"),
        (depth_model, replace(request(2), masks=None), SHARED, "masks is None"),
        (depth_model, replace(request(2), correspondences=None), replace(PLAIN, warp="latents"), "correspondences is"),
        (
            depth_model,
            replace(request(2), masks=None),
            replace(PLAIN, height=36),
            "height is 36; allowed: multiples of 8",
        ),
        (depth_model, request(2), replace(SHARED, height=40), "masks is 32 x 32; the settings allow 40 x 32"),
        (depth_model, replace(request(2), prompts=("a mug", "mug " * 12)), PLAIN, "prompt has 13 tokens; allowed: 10"),
        (depth_model, request(2), replace(PLAIN, negative_prompt="mug " * 12), "prompt has 13 tokens"),
    ]
    for model, sent, settings, message in cases:
        with pytest.raises(ValueError, match=message):
            model.check(sent, settings)
        with pytest.raises(ValueError, match=message):
            model.generate(sent, settings)


def test_parts_that_do_not_fit_are_refused_when_loading(flux_folder: Folder, depth_model: FluxGenerator) -> None:
    parts = pipeline_parts(depth_model)
    config = depth_model.transformer.config
    for change, message in (({"in_channels": 24}, "in_channels is 24"), ({"out_channels": 8}, "out_channels is 8")):
        transformer = FluxTransformer2DModel.from_config({**config, **change})
        with pytest.raises(ValueError, match=message):
            FluxModel(**{**parts, "transformer": transformer})
    with pytest.raises(ValueError, match="dtype is 'float16'; allowed: float32, bfloat16"):
        FluxGenerator.from_pretrained(flux_folder(True, False), dtype="float16")


def test_it_is_an_image_set_generator(depth_model: FluxGenerator) -> None:
    generator: ImageSetGenerator = depth_model
    assert generator.generate_many([], PLAIN) == []
