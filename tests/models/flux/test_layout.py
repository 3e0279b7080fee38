"""Token layout and positions are diffusers' own, which the pretrained weights expect."""

import pytest
import torch
from diffusers import FluxControlPipeline

from models.flux.layout import image_ids, pack, text_ids, unpack


def test_packing_is_the_pipelines_packing() -> None:
    latents = torch.randn(2, 3, 6, 8)
    assert torch.equal(pack(latents), FluxControlPipeline._pack_latents(latents, 2, 3, 6, 8))
    assert torch.equal(unpack(pack(latents), 3, 4), latents)


def test_odd_latents_and_wrong_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="5 x 8"):
        pack(torch.zeros(1, 3, 5, 8))
    with pytest.raises(ValueError, match="12 tokens do not fill a grid of 3 x 3"):
        unpack(torch.zeros(1, 12, 4), 3, 3)


def test_image_positions_are_the_pipelines_and_move_by_rows() -> None:
    ids = FluxControlPipeline._prepare_latent_image_ids(1, 3, 4, "cpu", torch.float32)
    assert torch.equal(image_ids(3, 4), ids)
    assert torch.equal(image_ids(3, 4, row_offset=6), ids + torch.tensor([0.0, 6.0, 0.0]))
    assert torch.equal(text_ids(2), torch.zeros(2, 3))
