"""Gradient checkpointing of both customizers, and the operations that are counted meanwhile."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_flux
import torch
from tiny_unet import build, picture
from torch.nn.functional import scaled_dot_product_attention

from models import recompute
from models.customizer import Customizer, TrainingBatch
from models.flops import FlopCounter, uncounted
from models.flux.customizer import FluxCustomizer
from models.unet.customizer import UNetCustomizer

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    flux = tiny_flux.flux_ref(tmp_path_factory.mktemp("flux")).source.removeprefix("folder:")
    return {"flux": Path(flux), "unet": build(tmp_path_factory.mktemp("unet"), sdxl=False)}


def load(folders: dict[str, Path], form: str, dtype: torch.dtype = torch.float32) -> Customizer:
    if form == "noised":
        model = UNetCustomizer.from_pretrained(folders["unet"], "cpu", dtype)
        model.add_adapter(3, "self_attention", seed=0)
    else:
        model = FluxCustomizer.from_pretrained(folders["flux"], "cpu", dtype)
        model.references = form
        model.add_adapter(3, "attention_feedforward", seed=0)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.adapter_parameters().values():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def step(model: Customizer, counter: AbstractContextManager[Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Losses and gradients of a batch with two, one and no references."""
    mask = np.zeros((16, 16), bool)
    mask[:8, :8] = True

    def features(seed: int) -> Any:
        return model.image_features([picture(seed)], [mask])[0]

    references = [[features(4), features(5)], [features(6)], []]
    batch = TrainingBatch([features(seed) for seed in range(3)], model.text_features(["a mug"] * 3), references)
    with counter:
        losses = model.losses(batch, [torch.Generator().manual_seed(row) for row in range(3)])
        losses.mean().backward()
    gradients = {name: parameter.grad for name, parameter in model.adapter_parameters().items()}
    return losses.detach(), gradients


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", ["separate", "joint", "noised"])
def test_checkpointed_losses_and_gradients_are_bit_equal_and_no_work_is_counted_twice(
    folders: dict[str, Path], form: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, again = load(folders, form, dtype), load(folders, form, dtype)
    again.recompute_activations()
    times = []
    monkeypatch.setattr(recompute, "uncounted", lambda counter: times.append(counter) or uncounted(counter))
    counters = FlopCounter(), FlopCounter()
    losses, gradients = step(kept, counters[0])
    assert not times
    found = step(again, counters[1])
    assert times, "blocks were run again"
    assert torch.equal(losses, found[0])
    for name, gradient in gradients.items():
        assert torch.equal(gradient, found[1][name]), name
    assert counters[0].total == counters[1].total > 0


@pytest.mark.parametrize("form", ["separate", "noised"])
def test_counting_changes_no_bit(folders: dict[str, Path], form: str) -> None:
    losses, gradients = step(load(folders, form), FlopCounter())
    plain = step(load(folders, form), nullcontext())
    assert torch.equal(losses, plain[0])
    assert all(torch.equal(gradient, plain[1][name]) for name, gradient in gradients.items())


def test_operations_are_those_of_the_textbook() -> None:
    """2mnk of a product, twice that again for both gradients; attention has two products forward and five backward."""
    x, weight = torch.randn(5, 7, requires_grad=True), torch.randn(7, 11, requires_grad=True)
    with FlopCounter() as counter:
        (x @ weight).sum().backward()
    assert counter.total == 3 * 2 * 5 * 7 * 11
    q, k, v = (torch.randn(2, 3, length, 8, requires_grad=True) for length in (4, 6, 6))
    with FlopCounter() as counter:
        scaled_dot_product_attention(q, k, v).sum().backward()
    assert counter.total == 7 * 2 * (2 * 3) * 4 * 6 * 8
