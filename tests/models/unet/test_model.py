from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from tiny_unet import picture, pipeline_of

from models.unet.customizer import UNetCustomizer
from models.unet.model import UNetModel

torch.set_num_threads(1)
Folder = Callable[[bool], Path]


def load(folder: Path) -> UNetModel:
    return UNetModel.from_pretrained(folder, "cpu", torch.float32)


@torch.no_grad()
@pytest.mark.parametrize("kind", [UNetModel, UNetCustomizer])
def test_without_references_it_is_diffusers_own_model_with_its_own_ip_adapter(
    folder: Path, kind: type[UNetModel]
) -> None:
    """Prompts, image embeddings and sizes as diffusers' pipeline makes them; then the same U-Net output, exactly."""
    ours, pipeline = kind.from_pretrained(folder, "cpu", torch.float32), pipeline_of(folder)
    pipeline.set_ip_adapter_scale(0.6)
    noisy, times = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([999, 5])
    prompts, images = ["a red mug", "a blue mug on the beach"], [picture(1), picture(2)]
    text = ours.encode_prompts(prompts)
    encoded = pipeline.encode_prompt(
        prompt=prompts, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    assert torch.equal(text.sequence, encoded[0])
    added = {"image_embeds": [pipeline.encode_image(images, "cpu", 1, output_hidden_states=True)[0][:, None]]}
    if ours.sdxl:
        assert torch.equal(text.pooled, encoded[2])
        sizes = pipeline._get_add_time_ids((16, 16), (0, 0), (16, 16), torch.float32, text_encoder_projection_dim=10)
        added |= {"text_embeds": encoded[2], "time_ids": sizes.repeat(2, 1)}
    expected = pipeline.unet(noisy, times, encoded[0], added_cond_kwargs=added).sample
    if kind is UNetModel:
        for processor in ours.unet.attn_processors.values():
            if hasattr(processor, "scale"):
                processor.scale = [0.6]
    tokens = ours.resampler(ours.encode_appearance(images))
    assert torch.equal(ours.velocity(noisy, times, text, tokens), expected)


@torch.no_grad()
def test_no_image_is_what_diffusers_takes_for_the_unconditional_image_of_ip_adapter_plus(folder: Path) -> None:
    ours, pipeline = load(folder), pipeline_of(folder)
    _, expected = pipeline.encode_image([picture(1)], "cpu", 1, output_hidden_states=True)
    assert torch.equal(ours.encode_no_appearance()[None], expected)
    assert ours.resampler(expected).abs().max() > 0.1, "which is not the same as no IP-Adapter"


@torch.no_grad()
def test_zero_image_tokens_add_nothing_at_all(folder: Path) -> None:
    ours, base = load(folder), UNet2DConditionModel.from_pretrained(folder / "unet")
    noisy, text = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)), ours.encode_prompts(["a mug"])
    added = {"text_embeds": text.pooled, "time_ids": torch.tensor([[16.0, 16, 0, 0, 16, 16]])} if ours.sdxl else None
    expected = base(noisy, 3, text.sequence, added_cond_kwargs=added).sample
    found = ours.velocity(noisy, torch.tensor([3]), text, torch.zeros(1, 3, base.config.cross_attention_dim))
    assert torch.equal(found, expected)


def test_images_become_latents_and_come_back_in_their_size(folder: Path) -> None:
    ours = load(folder)
    assert ours.encode_images(np.stack([picture(1), picture(2)])).shape == (2, 4, 8, 8)
    with pytest.raises(ValueError, match="height is 15; allowed: multiples of 2"):
        ours.encode_images(np.zeros((1, 15, 16, 3), np.uint8))


def test_a_prompt_that_clip_would_cut_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"prompt has 13 tokens; allowed: 12: 'a red mug"):
        load(folder).encode_prompts(["a red mug on the beach in forest blurry dark a mug"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prediction_type": "epsilon"}, "prediction_type is 'epsilon'; this model needs 'v_prediction': take a base"),
        ({"rescale_betas_zero_snr": False}, "rescale_betas_zero_snr is False; this model needs True"),
    ],
)
def test_a_schedule_that_does_not_end_in_noise_is_refused(
    folder: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    copytree(folder, tmp_path / "model")
    config = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, **change}
    DDPMScheduler(**config).save_pretrained(tmp_path / "model" / "scheduler")
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "model")


def test_an_ip_adapter_of_another_model_is_refused_by_name_and_shape(unet_folder: Folder, tmp_path: Path) -> None:
    copytree(unet_folder(False), tmp_path / "model")
    file = tmp_path / "model" / "ip_adapter" / "ip-adapter-plus.safetensors"
    tensors = load_file(file)
    save_file({**tensors, "ip_adapter.1.to_k_ip.weight": torch.zeros(7, 12)}, file)
    with pytest.raises(ValueError, match=r"ip_adapter\.1\.to_k_ip\.weight is \(7, 12\); this U-Net takes \(8, 12\)"):
        load(tmp_path / "model")
    save_file({name: own for name, own in tensors.items() if name != "ip_adapter.3.to_v_ip.weight"}, file)
    with pytest.raises(ValueError, match=r"ip_adapter\.3\.to_v_ip\.weight is missing; this U-Net takes"):
        load(tmp_path / "model")
    save_file({name: own for name, own in tensors.items() if name != "image_proj.latents"}, file)
    with pytest.raises(ValueError, match=r"image_proj\.latents or .* is missing; IP-Adapter Plus has both"):
        load(tmp_path / "model")
    file.unlink()
    with pytest.raises(ValueError, match=r"one IP-Adapter Plus is needed as \*\.safetensors; there: none"):
        load(tmp_path / "model")
