"""Warping (thesis Eq. 5.2): exact on whole tokens, bilinear between, safe at the border, in a fixed source order."""

import numpy as np
import pytest
import torch
from torch import Tensor

from data.correspondence import Correspondence
from models.flux.warping import match_tokens, plan_warp

HEIGHT, WIDTH = 4, 6
COUNT = HEIGHT * WIDTH


def correspondence(dx: float, dy: float, cells: int = 24, visible: np.ndarray | None = None) -> Correspondence:
    """Every cell corresponds to the place (dx, dy), in tokens of the grid, to its right and below."""
    centres = (np.arange(cells, dtype=np.float32) + np.float32(0.5)) / np.float32(cells)
    x, y = np.meshgrid(centres + np.float32(dx / WIDTH), centres + np.float32(dy / HEIGHT))
    shown = np.ones((cells, cells), bool) if visible is None else visible
    return Correspondence(uv=np.stack([x, y], -1).astype(np.float32), visible=shown)


def tokens(images: int) -> Tensor:
    return torch.randn(images, COUNT, 5, generator=torch.Generator().manual_seed(1))


def grid(tokens_nc: Tensor) -> Tensor:
    return tokens_nc.view(HEIGHT, WIDTH, -1)


@pytest.mark.parametrize("cells", [12, 24, 7, 64, 3])
def test_identity_copies_the_source_and_changes_nothing_between_equal_images(cells: int) -> None:
    warp = plan_warp([{(1, 0): correspondence(0, 0, cells)}], 2, HEIGHT, WIDTH)
    pair = tokens(2)
    assert torch.equal(warp(pair), pair[:1].expand(2, -1, -1))
    equal = pair[:1].repeat(2, 1, 1)
    assert torch.equal(warp(equal), equal)


def test_a_shift_by_whole_tokens_is_exact_and_what_leaves_the_source_stays() -> None:
    pair = tokens(2)
    warped = plan_warp([{(1, 0): correspondence(2, -1)}], 2, HEIGHT, WIDTH)(pair)
    expected = grid(pair[1]).clone()
    expected[1:, :-2] = grid(pair[0])[:-1, 2:]
    assert torch.equal(grid(warped[1]), expected)
    assert torch.equal(warped[0], pair[0])


def test_between_tokens_it_interpolates_bilinearly() -> None:
    pair = tokens(2)
    warped = grid(plan_warp([{(1, 0): correspondence(0.25, 0.5)}], 2, HEIGHT, WIDTH)(pair)[1])
    source = grid(pair[0])
    for y in range(HEIGHT - 1):
        for x in range(WIDTH - 1):
            upper = 0.75 * source[y, x] + 0.25 * source[y, x + 1]
            lower = 0.75 * source[y + 1, x] + 0.25 * source[y + 1, x + 1]
            torch.testing.assert_close(warped[y, x], 0.5 * upper + 0.5 * lower, atol=1e-3, rtol=1e-3)


def test_matches_outside_or_not_a_number_are_invisible_never_an_error() -> None:
    broken = correspondence(0, 0)
    broken.uv[:] = np.nan
    pair = tokens(2)
    for match in (broken, correspondence(50, 0), correspondence(0, -50)):
        assert torch.equal(plan_warp([{(1, 0): match}], 2, HEIGHT, WIDTH)(pair), pair)


def test_a_token_is_visible_when_more_than_half_of_it_is() -> None:
    visible = np.zeros((24, 24), bool)
    visible[:6, :4] = True
    visible[0, 0] = False
    visible[6:9, :4] = True
    seen, _, _ = match_tokens(*vars(correspondence(0, 0, visible=visible)).values(), HEIGHT, WIDTH)
    assert seen.nonzero().flatten().tolist() == [0]


def test_partly_visible_tokens_move_by_their_visible_cells_alone() -> None:
    match = correspondence(1, 0)
    match.visible[:, 2::4] = False
    match.uv[:, 2::4] = -7
    pair = tokens(2)
    warped = plan_warp([{(1, 0): match}], 2, HEIGHT, WIDTH)(pair)
    assert torch.equal(grid(warped[1])[:, :-1], grid(pair[0])[:, 1:])


def test_later_sources_fill_only_what_earlier_ones_left() -> None:
    left, all_cells = np.zeros((24, 24), bool), np.ones((24, 24), bool)
    left[:, :12] = True
    matches = {
        (1, 0): correspondence(0, 0, visible=~all_cells),
        (2, 0): correspondence(0, 0, visible=left),
        (2, 1): correspondence(0, 0, visible=all_cells),
        (0, 2): correspondence(0, 0, visible=all_cells),
    }
    triple = tokens(3)
    warped = plan_warp([matches], 3, HEIGHT, WIDTH)(triple)
    assert torch.equal(warped[:2], triple[:2])
    assert torch.equal(grid(warped[2])[:, :3], grid(triple[0])[:, :3])
    assert torch.equal(grid(warped[2])[:, 3:], grid(triple[1])[:, 3:])


def test_sources_are_read_before_they_are_themselves_warped() -> None:
    right = np.zeros((24, 24), bool)
    right[:, 12:] = True
    matches = {
        (1, 0): correspondence(0, 0),
        (2, 0): correspondence(0, 0, visible=~right),
        (2, 1): correspondence(0, 0),
    }
    triple = tokens(3)
    warped = plan_warp([matches], 3, HEIGHT, WIDTH)(triple)
    assert torch.equal(grid(warped[2])[:, 3:], grid(triple[1])[:, 3:])
    assert torch.equal(warped[1], triple[0])


def test_sets_copies_and_text_tokens_stay_apart() -> None:
    first, second = {(1, 0): correspondence(1, 0)}, {(1, 0): correspondence(0, 1)}
    batch = torch.randn(8, 3 + COUNT, 5)
    together = plan_warp([first, second], 2, HEIGHT, WIDTH, copies=2)(batch)
    alone = [plan_warp([match], 2, HEIGHT, WIDTH) for match in (first, second, first, second)]
    for place, warp in enumerate(alone):
        rows = slice(2 * place, 2 * place + 2)
        assert torch.equal(together[rows, 3:], warp(batch[rows, 3:]))
    assert torch.equal(together[:, :3], batch[:, :3])


def test_a_missing_pair_is_named() -> None:
    with pytest.raises(ValueError, match=r"no pair \(2, 1\)"):
        plan_warp([{(1, 0): correspondence(0, 0), (2, 0): correspondence(0, 0)}], 3, HEIGHT, WIDTH)
