"""The miniature's U-Net: a whole training in tiny steps, and the folder it leaves."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from models.customizer import CustomizeRequest, CustomizeSettings
from models.miniature.dataset import Views
from models.miniature.scenes import SCENES
from models.miniature.training import clip, unet, vae
from models.miniature.training.common import Draws
from models.miniature.world import sample_specs
from models.unet.customizer import UNetCustomizer
from models.unet.ip_adapter import image_projections, read_ip_adapter

torch.set_num_threads(1)
COUNT = 8


@pytest.fixture(scope="module")
def batches() -> unet.Batches:
    """Random pictures of four objects, two views each."""
    rng = np.random.default_rng(0)
    masks = np.zeros((COUNT, 64, 64), bool)
    masks[:, 20:50, 16:40] = True
    views = Views(
        ids=tuple(spec.id for spec in sample_specs(COUNT // 2, 0)),
        images=rng.integers(0, 256, (COUNT, 64, 64, 3), dtype=np.uint8),
        masks=masks,
        depths=masks * np.uint8(200),
        objects=np.arange(COUNT) // 2,
        scenes=np.arange(COUNT) % len(SCENES),
        others=np.arange(COUNT) % 3 - 1,
    )
    tokens = torch.randn(COUNT, 64, 64, generator=torch.Generator().manual_seed(0)).half()
    return unet.Batches(views, tokens, COUNT)


@pytest.fixture(scope="module")
def saved(batches: unet.Batches, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.nn.Module]]:
    work, folder = tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("unet")
    torch.manual_seed(0)
    clip_net = clip.build().eval()
    nets, _ = unet.train(batches, 2, 0, work)
    before = {name: weight.clone() for name, weight in nets["unet"].state_dict().items()}
    adapter, _ = unet.train_adapter(batches, nets, clip_net, 2, 0, work)
    assert all(torch.equal(weight, before[name]) for name, weight in nets["unet"].state_dict().items())
    unet.save(vae.build(), nets, adapter, clip_net, folder)
    return folder, {"adapter": adapter, "clip": clip_net, **nets}


def test_the_folder_is_a_customization_model_that_makes_images(
    saved: tuple[Path, dict[str, torch.nn.Module]], batches: unet.Batches
) -> None:
    folder, nets = saved
    model = UNetCustomizer.from_pretrained(folder, "cpu", torch.float32)
    image, mask = batches.views.images[0], batches.views.masks[0]
    settings = CustomizeSettings(height=64, width=64, steps=2)
    (made,) = model.generate_many([CustomizeRequest("a red mug", 0, (image,), (mask,))], settings)
    assert made.shape == (64, 64, 3)
    for (name, weight), own in zip(
        image_projections(model.unet).items(),
        [own[part].weight for own in nets["adapter"]["projections"] for part in ("to_k_ip", "to_v_ip")],
        strict=True,
    ):
        assert torch.equal(weight, own.half().float()), name
    expected = (
        nets["clip"].half().float().vision_model(pixel_values=clip.to_tensor(image[None]), output_hidden_states=True)
    )
    torch.testing.assert_close(model.encode_appearance([image]), expected.hidden_states[-2], atol=1e-3, rtol=1e-3)


def test_both_trainings_move_what_they_train(saved: tuple[Path, dict[str, torch.nn.Module]]) -> None:
    _, nets = saved
    torch.manual_seed(0)
    for name, fresh in (("adapter", unet.build_adapter()), ("unet", unet.build()["unet"])):
        moved = [
            not torch.equal(own, old) for own, old in zip(nets[name].parameters(), fresh.parameters(), strict=True)
        ]
        assert all(moved) or sum(moved) > 0.9 * len(moved), name


def test_images_come_from_another_view_of_the_object_and_the_loss_is_finite(batches: unet.Batches) -> None:
    draws = Draws(0, 0)
    rows = draws.rows(COUNT, COUNT)
    net = unet.build()
    loss = batches.loss(net["unet"], net["text"](batches.ids(rows, draws)).last_hidden_state, rows, draws)
    assert torch.isfinite(loss) and 0.1 < loss.item() < 10


def test_all_that_is_new_fits_into_eleven_megabytes(saved: tuple[Path, dict[str, torch.nn.Module]]) -> None:
    """The autoencoder is the one of the FLUX folder, the same bytes."""
    folder, _ = saved
    sizes = {path.parent.name: path.stat().st_size for path in folder.rglob("*.safetensors")}
    assert sum(size for name, size in sizes.items() if name != "vae") < 11e6
    assert read_ip_adapter(folder / "ip_adapter" / "ip-adapter-plus.safetensors").keys()
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert config["prediction_type"] == "v_prediction" and config["rescale_betas_zero_snr"]
