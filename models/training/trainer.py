"""The training loop of a customization model: deterministic, and resumed exactly from its last checkpoint.

All randomness of a sample comes from the run seed, the step's number and its place in the step, and so do the
text-image pairs in it; the position among the sets comes from the reader's state. So weights, their moving average,
optimizer, position and step are the whole state of a run. Every process reads the whole order of samples and computes
its rows of each batch: how many there are changes nothing but the order in which numbers are added.
"""

import contextlib
import io
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from prodigyopt import Prodigy
from torch import Tensor, nn

from configs.training import Train
from data.ids import seed_for
from data.reader import ShardReader
from data.shards import Sample
from data.store import Store
from models.customizer import Customizer
from models.flops import FlopCounter, peak_tflops
from models.training.batches import Row, consumed, draw, make_batch, named, pick
from models.training.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
from models.training.features import FeatureStore
from models.training.pace import Pace, StepFlops
from models.training.pairs import PairMix, counts
from models.training.parallel import LossModule, make_accelerator, shard_base, share_of
from models.training.settings import Settings
from models.training.trackers import tracked


class TrainingError(Exception):
    """Training that cannot go on; the message names the step, the samples and what to try.

    `transient`: another attempt, from the last checkpoint, may help.
    """

    def __init__(self, message: str, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


@dataclass(frozen=True)
class Run:
    """What one run is made of. `folder` is where its checkpoints are, `store` where they are kept too."""

    customizer: Customizer
    reader: ShardReader
    features: FeatureStore
    section: Train
    seed: int
    folder: Path
    device: str = "cpu"
    settings: Settings = field(default_factory=Settings)
    pairs: PairMix | None = None
    store: Store | None = None


@dataclass
class History:
    """One row per step: `metrics` (loss, gradient norm, step size) and `ledger` (which data the step consumed)."""

    metrics: list[Row]
    ledger: list[Row]


def train(run: Run, on_step: Callable[[Row], None] | None = None) -> History:
    """Train to `section.steps`, from the last checkpoint if there is one; the customizer ends up trained.

    `on_step` gets the metrics row of every step, the ones before a resumption included. Raises TrainingError on a
    loss or gradient that is not finite, CheckpointError if the checkpoint belongs to another run.
    """
    section, settings, device = run.section, run.settings, torch.device(run.device)
    accelerator = make_accelerator(run.device, section.accumulate, settings, run.folder.parent / "trackers")
    run.customizer.add_adapter(section.lora_rank, section.lora_targets, seed_for(run.seed, "train", "adapter"))
    if section.parallel == "fsdp" and accelerator.num_processes > 1:
        shard_base(run.customizer, accelerator.num_processes, device)
    if settings.gradient_checkpointing:
        run.customizer.recompute_activations()
    parameters = list(run.customizer.adapter_parameters().values())
    optimizer = make_optimizer(parameters, section)
    average = EMAModel(parameters, decay=section.ema_decay) if section.ema_decay else None
    history = _resume(run, optimizer, average)
    for row in history.metrics if on_step else ():
        on_step(row)
    done = len(history.metrics)
    if done < section.steps and accelerator.num_processes != section.processes:
        raise TrainingError(
            f"train.processes is {section.processes} and {accelerator.num_processes} are running; start as many"
        )
    loop = _Loop(run, accelerator, accelerator.prepare_model(LossModule(run.customizer)), parameters, optimizer)
    peak = settings.peak_tflops or peak_tflops(device, section.dtype)
    pace = Pace(section.steps, section.batch * section.accumulate, section.log_every, peak and peak * 1e12)
    flops = StepFlops(section.batch * section.accumulate // accelerator.num_processes)
    samples = _endless(run)
    with tracked(accelerator, section.model_dump(mode="json")) if done < section.steps else contextlib.nullcontext():
        for step in range(done, section.steps):
            with FlopCounter() if flops.unsure else contextlib.nullcontext() as counter:
                metrics, taken = loop.step(step, samples)
            references = loop.references_in(taken)
            if counter is not None:
                flops.count(references, counter.total)
            if average is not None:
                average.step(parameters)
            history.metrics.append(metrics)
            history.ledger.append(taken)
            if accelerator.is_main_process:
                shown = {name: value for name, value in metrics.items() if name != "step"}
                speed = pace(metrics, flops.of(references), counted=counter is not None)
                accelerator.log({**shown, **speed}, step=step)
            if on_step:
                on_step(metrics)
            ends = (step + 1) % section.checkpoint_every == 0 or step + 1 == section.steps
            if ends and accelerator.is_main_process:
                _save(run, optimizer, average, history)
    if average is not None:
        average.copy_to(parameters)
    return history


def make_optimizer(parameters: list[nn.Parameter], section: Train) -> torch.optim.Optimizer:
    """AdamW or Prodigy, as the recipe says. Prodigy estimates the step size itself; its rate is a factor, usually 1."""
    if section.optimizer == "prodigy":
        with contextlib.redirect_stdout(io.StringIO()):  # it announces its weight decay
            return Prodigy(parameters, lr=section.learning_rate, weight_decay=section.weight_decay)
    return torch.optim.AdamW(parameters, lr=section.learning_rate, weight_decay=section.weight_decay)


def learning_rate(section: Train, step: int) -> float:
    """Rate of a step, from 0: constant, or falling linearly to 0 after the last one."""
    share = 1 - step / section.steps if section.learning_rate_decay == "linear" else 1.0
    return section.learning_rate * share


def _save(run: Run, optimizer: torch.optim.Optimizer, average: EMAModel | None, history: History) -> None:
    state = {
        "adapter": run.customizer.adapter_state(),
        "optimizer": optimizer.state_dict(),
        "average": None if average is None else average.state_dict(),
        "reader": run.reader.state_dict(),
        "metrics": history.metrics,
        "ledger": history.ledger,
    }
    save_checkpoint(run.folder, len(history.metrics), state, run.settings.keep_checkpoints, run.store)


def _resume(run: Run, optimizer: torch.optim.Optimizer, average: EMAModel | None) -> History:
    state = load_checkpoint(run.folder, run.device)
    if state is None:
        return History([], [])
    try:
        run.customizer.set_adapter_state(state["adapter"])
        optimizer.load_state_dict(state["optimizer"])
        if average is not None:
            average.load_state_dict(state["average"])
        run.reader.load_state_dict(state["reader"])
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"{run.folder}: checkpoint of another run ({error}); delete the folder to start anew"
        ) from error
    return History(state["metrics"], state["ledger"])


def _endless(run: Run) -> Iterator[Sample]:
    """Sets in the order of the reader, without the images that are skipped; a set that has no other is passed over."""
    reader, features = run.reader, run.features
    if not len(reader):
        raise TrainingError(
            f"{reader.source.name}: rank {reader.rank} of {reader.world_size} has no samples to train on"
        )
    if not features.images:
        reasons = counts(Counter(failure.reason for failure in features.skipped.values()))
        first = next(iter(features.skipped.values())).detail
        raise TrainingError(
            f"{reader.source.name}: none of its images can be trained on: {reasons}; the first: {first}; lower "
            "prompts.max_words, or train another base model"
        )
    while True:
        yield from filter(None, map(features.usable, reader))


@dataclass(frozen=True)
class _Loop:
    """One optimizer step after the other."""

    run: Run
    accelerator: Accelerator
    module: nn.Module
    parameters: list[nn.Parameter]
    optimizer: torch.optim.Optimizer

    def step(self, step: int, samples: Iterator[Sample]) -> tuple[Row, Row]:
        """Metrics and ledger of the step, equal on all processes."""
        run, section, accelerator = self.run, self.run.section, self.accelerator
        rng = random.Random(seed_for(run.seed, "train", f"examples-{step}"))
        mine = share_of(section.batch, accelerator)
        taken: list[Row] = []
        own: list[Tensor] = []
        self.optimizer.zero_grad(set_to_none=True)
        for part in range(section.accumulate):
            first = (step * section.accumulate + part) * section.batch
            picked = pick(samples, run.pairs, first, section.batch)
            examples = [draw(source, section, rng) for source in picked]
            taken += [consumed(source, example) for source, example in zip(picked, examples, strict=True)]
            places = range(part * section.batch, (part + 1) * section.batch)[mine]
            seeds = [seed_for(run.seed, "train", f"noise-{step}-{place}") for place in places]
            batch = make_batch(run.features, picked[mine], examples[mine])
            with accelerator.accumulate(self.module):
                losses = self.module(batch, [torch.Generator().manual_seed(seed) for seed in seeds])
                accelerator.backward(losses.mean())
            own.append(losses.detach())
        losses = accelerator.gather(torch.stack(own, dim=1)).T.flatten().cpu()
        _check_finite(step, losses, taken)
        norm = accelerator.clip_grad_norm_(self.parameters, section.max_grad_norm).item()
        if not math.isfinite(norm):
            raise TrainingError(f"step {step}: gradient norm is {norm}, {_advice(taken)}")
        group = self.optimizer.param_groups[0]
        group["lr"] = learning_rate(section, step)
        self.optimizer.step()
        metrics = {
            "step": step,
            "loss": losses.double().mean().item(),
            "gradient_norm": norm,
            "step_size": group["lr"] * group.get("d", 1.0),
        }
        shards = list(dict.fromkeys(run.reader.digest_of(row["set"]) for row in taken if "set" in row))
        return metrics, {"step": step, "shards": shards, "samples": taken}

    def references_in(self, taken: Row) -> int:
        """How many references this process read in a step, by the ledger."""
        batch, mine = self.run.section.batch, share_of(self.run.section.batch, self.accelerator)
        rows = taken["samples"]
        own = [row for start in range(0, len(rows), batch) for row in rows[start : start + batch][mine]]
        return sum(len(row.get("references", ())) for row in own)


def _check_finite(step: int, losses: torch.Tensor, rows: list[Row]) -> None:
    finite = torch.isfinite(losses)
    if not finite.all():
        bad = [row for row, fine in zip(rows, finite.tolist(), strict=True) if not fine]
        raise TrainingError(f"step {step}: loss is {losses[~finite][0].item()}, {_advice(bad)}")


def _advice(rows: list[Row]) -> str:
    samples = ", ".join(map(named, rows))
    return f"at the samples {samples}; look at them, or lower train.learning_rate or train.max_grad_norm"
