import logging
from itertools import count

import pytest
import torch

from models import flops
from models.training.pace import Pace


def test_rates_are_of_the_steps_since_the_line_before(caplog: pytest.LogCaptureFixture) -> None:
    """Steps of 2 s; the first, which takes 50 s, is in no rate."""
    times = (50.0 + 2 * number for number in count())
    pace = Pace(steps=7, samples=8, every=3, peak=4e12, clock=lambda: next(times))
    pace.flops = 6 * 10**12
    with caplog.at_level(logging.INFO):
        said = [pace({"step": step, "loss": 0.5}) for step in range(7)]
    assert [bool(own) for own in said] == [False, False, True, False, False, True, True]
    assert said[2] == {"samples_per_second": 4.0, "tflops_per_device": 3.0, "utilisation": 0.75}
    assert (
        "step 3/7, loss 0.5000, 4.0 samples/s, 3 TFLOP/s per device (75.0% of its peak), 0 min 08 s left"
        in (caplog.messages[0])
    )


def test_without_a_known_peak_there_is_no_utilisation() -> None:
    times = count(1.0)
    pace = Pace(steps=2, samples=1, every=1, clock=lambda: next(times))
    assert pace({"step": 0, "loss": 0.1}) == {}
    pace.flops = 10**12
    assert pace({"step": 1, "loss": 0.1}) == {"samples_per_second": 1.0, "tflops_per_device": 1.0}


@pytest.mark.parametrize(
    ("name", "dtype", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989.0),
        ("NVIDIA H100 PCIe", "bfloat16", 756.0),
        ("NVIDIA A100-SXM4-80GB", "float32", 19.5),
        ("NVIDIA A10G", "bfloat16", 70.0),
        ("NVIDIA L40S", "bfloat16", 362.0),
        ("NVIDIA GeForce GTX 1080", "float32", None),
    ],
)
def test_the_peak_is_that_of_the_named_gpu(
    name: str, dtype: str, peak: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert flops.peak_tflops(torch.device("cuda:0"), dtype) == peak
    assert flops.peak_tflops(torch.device("cpu"), dtype) is None
