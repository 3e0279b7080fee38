import logging
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import tiny_flux
import tiny_unet
import torch

from configs.training import NoisedReferences, Train
from models import flops
from models.training import trainer
from models.training.job import TrainingJob, open_run
from models.training.pace import Pace, StepFlops

torch.set_num_threads(1)


def test_rates_are_of_the_steps_since_the_line_before(caplog: pytest.LogCaptureFixture) -> None:
    """Steps of 2 s; the first, which takes 50 s, is in no rate."""
    times = (50.0 + 2 * number for number in count())
    pace = Pace(steps=7, samples=8, every=3, peak=4e12, clock=lambda: next(times))
    with caplog.at_level(logging.INFO):
        said = [pace({"step": step, "loss": 0.5}, 6e12, counted=step == 0) for step in range(7)]
    assert [bool(own) for own in said] == [False, False, True, False, False, True, True]
    assert said[2] == {"samples_per_second": 4.0, "tflops_per_device": 3.0, "utilisation": 0.75}
    assert (
        "step 3/7, loss 0.5000, 4.0 samples/s, 3 TFLOP/s per device (75.0% of its peak), 0 min 08 s left"
        in (caplog.messages[0])
    )


def test_operations_are_those_of_the_steps_themselves(caplog: pytest.LogCaptureFixture) -> None:
    """Steps of 1 s and 1, 2, ... TFLOP; those that were counted, the first and the fourth, are in no rate."""
    times = count(1.0)
    pace = Pace(steps=8, samples=1, every=2, peak=10e12, clock=lambda: next(times))
    caplog.set_level(logging.INFO)
    said = [pace({"step": step, "loss": 0.1}, (step + 1) * 1e12, counted=step in (0, 3)) for step in range(8)]
    assert [own.get("tflops_per_device") for own in said] == [None, 2.0, None, None, None, 5.5, None, 7.5]
    assert said[7] == {"samples_per_second": 1.0, "tflops_per_device": 7.5, "utilisation": 0.75}
    assert caplog.messages[1] == "train: step 4/8, loss 0.1000"


def test_without_a_known_peak_there_is_no_utilisation() -> None:
    times = count(1.0)
    pace = Pace(steps=2, samples=1, every=1, clock=lambda: next(times))
    assert pace({"step": 0, "loss": 0.1}, 1e12, counted=True) == {}
    assert pace({"step": 1, "loss": 0.1}, 1e12, counted=False) == {"samples_per_second": 1.0, "tflops_per_device": 1.0}


def test_counted_steps_with_different_references_tell_what_one_costs() -> None:
    """Eight targets of 100, references of 30."""
    steps = StepFlops(targets=8)
    for references in (11, 11, 13, 10):
        assert steps.unsure
        steps.count(references, 800 + 30 * references)
    assert not steps.unsure
    assert [steps.of(references) for references in (0, 11, 16)] == pytest.approx([800, 1130, 1280])


def test_of_one_number_of_references_each_counts_as_a_target() -> None:
    steps = StepFlops(targets=8)
    steps.count(12, 2000)
    steps.count(12, 2000)
    assert [steps.of(references) for references in (2, 12, 17)] == pytest.approx([1000, 2000, 2500])


@pytest.mark.parametrize("kind", ["flux", "unet"])
@pytest.mark.parametrize("resumed", [False, True])
def test_what_is_said_of_a_step_is_what_it_computed(
    tmp_path: Path, dataset: Path, kind: str, resumed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every step counted beside, of a run and of one that went on."""
    unet = {"references": "noised", "noised": NoisedReferences(), "lora_targets": "self_attention"}
    section = Train(steps=14, batch=6, lora_rank=2, checkpoint_every=4, log_every=1, drop_image=0.2)
    section = section.model_copy(update=unet if kind == "unet" else {})
    base = tiny_unet.unet_ref(tmp_path / "base") if kind == "unet" else tiny_flux.flux_ref(tmp_path / "base")
    job = TrainingJob(section=section, seed=0, base=base, workspace=tmp_path, dataset=dataset, folder=tmp_path / "run")
    computed: dict[int, int] = {}
    said: dict[int, float] = {}
    step_of, pace_of = trainer._Loop.step, Pace.__call__

    def step(self: Any, number: int, samples: Any) -> Any:
        with flops.FlopCounter() as counter:
            found = step_of(self, number, samples)
        computed[number] = counter.total
        return found

    def pace(self: Pace, row: dict[str, Any], operations: float, counted: bool) -> dict[str, float]:
        found = pace_of(self, row, operations, counted)
        if found:
            said[row["step"]] = found["tflops_per_device"] * 1e12 * self.samples / found["samples_per_second"]
        return found

    def kill(row: dict[str, Any]) -> None:
        if row["step"] == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(trainer._Loop, "step", step)
    monkeypatch.setattr(Pace, "__call__", pace)
    if resumed:
        with pytest.raises(KeyboardInterrupt):
            trainer.train(open_run(job, "cpu"), kill)
        said.clear()
    trainer.train(open_run(job, "cpu"))
    assert set(said) == set(range(8 if resumed else 4, 14))
    assert max(computed.values()) > 1.08 * min(computed.values())
    for number, operations in said.items():
        assert operations == pytest.approx(computed[number], rel=0.02)


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
