"""What the benchmarks of references make of their timings, and that what they time is the same computation."""

import pytest
import torch
from diffusers import FluxTransformer2DModel

from benchmarks.gpu.customization import operations, verdicts
from benchmarks.references import Costs, Sampling

COSTS = Costs(base=1.0, read=3.0, attend=1.3, joint=4.0, base_alone=0.3, attend_alone=0.6)


def test_costs_are_shares_of_as_many_base_passes() -> None:
    assert COSTS.kept(30) == pytest.approx((3.0 + 30 * 1.3) / 30)
    assert (COSTS.read_every_step, COSTS.read_every_pass, COSTS.joint_form) == pytest.approx((4.3, 7.3, 4.0))
    assert COSTS.one_branch(30) == pytest.approx((3.0 + 30 * 0.6) / (30 * 0.3))


def test_targets_are_judged_by_what_was_found() -> None:
    assert [row[-1] for row in verdicts(COSTS, 512)] == ["pass", "pass", "pass"]
    slow = Costs(base=1.0, read=0.5, attend=1.6, joint=2.0, base_alone=0.3, attend_alone=0.6)
    assert [row[-1] for row in verdicts(slow, 512)] == ["FAIL", "FAIL", "FAIL"]


@torch.no_grad()
def test_the_branches_of_a_timed_step_are_those_computed_one_by_one() -> None:
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        in_channels=8,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=6,
        pooled_projection_dim=7,
        guidance_embeds=True,
        axes_dims_rope=(2, 2, 4),
    ).eval()
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    sampling = Sampling(transformer, side=4, text=3, count=2)
    assert sampling.difference() < 1e-4
    kept = sampling.step(sampling.read())
    assert kept.shape[:2] == (3, 16)
    assert not torch.allclose(kept[1:], sampling.step(None)[1:], atol=1e-3)
    torch.testing.assert_close(kept[:1], sampling.step(None)[:1], rtol=1e-4, atol=1e-5)
    counted = operations(Sampling(transformer.to("meta"), side=4, text=3, count=2))
    own, references = 16, 2 * 16
    more_keys = 4 * own * references * 16 * 2 / 1e12
    assert counted.attend_alone - counted.base_alone == pytest.approx(more_keys), "queries x keys x width, 2 layers"
    assert counted.base == pytest.approx(3 * counted.base_alone, rel=1e-3)
