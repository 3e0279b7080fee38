"""The training loop of a customization model: deterministic, and resumed exactly from its last checkpoint.

All randomness of a step comes from the run seed and the step's number, and so do the text-image pairs in it; the
position among the sets comes from the reader's state. So weights, optimizer, position and step are the whole state of a
run.
"""

import contextlib
import io
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from prodigyopt import Prodigy
from torch import nn

from configs.schema import Train
from data.ids import seed_for
from data.reader import ShardReader
from data.shards import Sample
from models.customizer import Customizer
from models.training.batches import Row, consumed, draw, make_batch, named, pick
from models.training.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
from models.training.features import FeatureStore
from models.training.pairs import PairMix


class TrainingError(Exception):
    """Training that cannot go on; the message names the step, the samples and what to try."""


@dataclass(frozen=True)
class Run:
    """What one run is made of. `folder` is where its checkpoints are."""

    customizer: Customizer
    reader: ShardReader
    features: FeatureStore
    section: Train
    seed: int
    folder: Path
    device: str = "cpu"
    pairs: PairMix | None = None


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
    section = run.section
    run.customizer.add_adapter(section.lora_rank, section.lora_targets, seed_for(run.seed, "train", "adapter"))
    parameters = list(run.customizer.adapter_parameters().values())
    optimizer = make_optimizer(parameters, section)
    history = _resume(run, optimizer)
    for row in history.metrics if on_step else ():
        on_step(row)
    samples = _endless(run.reader)
    for step in range(len(history.metrics), section.steps):
        metrics, taken = _step(run, step, samples, parameters, optimizer)
        history.metrics.append(metrics)
        history.ledger.append(taken)
        if on_step:
            on_step(metrics)
        if (step + 1) % section.checkpoint_every == 0 or step + 1 == section.steps:
            save_checkpoint(
                run.folder,
                step + 1,
                {
                    "adapter": run.customizer.adapter_state(),
                    "optimizer": optimizer.state_dict(),
                    "reader": run.reader.state_dict(),
                    "metrics": history.metrics,
                    "ledger": history.ledger,
                },
            )
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


def _resume(run: Run, optimizer: torch.optim.Optimizer) -> History:
    state = load_checkpoint(run.folder, run.device)
    if state is None:
        return History([], [])
    try:
        run.customizer.set_adapter_state(state["adapter"])
        optimizer.load_state_dict(state["optimizer"])
        run.reader.load_state_dict(state["reader"])
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"{run.folder}: checkpoint of another run ({error}); delete the folder to start anew"
        ) from error
    return History(state["metrics"], state["ledger"])


def _endless(reader: ShardReader) -> Iterator[Sample]:
    if not len(reader):
        raise TrainingError(f"{reader.directory}: rank {reader.rank} of {reader.world_size} has no samples to train on")
    while True:
        yield from reader


def _step(
    run: Run,
    step: int,
    samples: Iterator[Sample],
    parameters: list[nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> tuple[Row, Row]:
    section = run.section
    rng = random.Random(seed_for(run.seed, "train", f"examples-{step}"))
    generator = torch.Generator().manual_seed(seed_for(run.seed, "train", f"noise-{step}"))
    taken: list[Row] = []
    total = 0.0
    optimizer.zero_grad(set_to_none=True)
    for part in range(section.accumulate):
        first = (step * section.accumulate + part) * section.batch
        picked = pick(samples, run.pairs, first, section.batch)
        examples = [draw(source, section, rng) for source in picked]
        rows = [consumed(source, example) for source, example in zip(picked, examples, strict=True)]
        taken += rows
        losses = run.customizer.losses(make_batch(run.features, picked, examples), generator)
        _check_finite(step, losses.detach().cpu(), rows)
        loss = losses.mean() / section.accumulate
        loss.backward()
        total += loss.item()
    norm = nn.utils.clip_grad_norm_(parameters, section.max_grad_norm).item()
    if not math.isfinite(norm):
        raise TrainingError(f"step {step}: gradient norm is {norm}, {_advice(taken)}")
    group = optimizer.param_groups[0]
    group["lr"] = learning_rate(section, step)
    optimizer.step()
    metrics = {"step": step, "loss": total, "gradient_norm": norm, "step_size": group["lr"] * group.get("d", 1.0)}
    shards = list(dict.fromkeys(run.reader.digest_of(row["set"]) for row in taken if "set" in row))
    return metrics, {"step": step, "shards": shards, "samples": taken}


def _check_finite(step: int, losses: torch.Tensor, rows: list[Row]) -> None:
    finite = torch.isfinite(losses)
    if not finite.all():
        bad = [row for row, fine in zip(rows, finite.tolist(), strict=True) if not fine]
        raise TrainingError(f"step {step}: loss is {losses[~finite][0].item()}, {_advice(bad)}")


def _advice(rows: list[Row]) -> str:
    samples = ", ".join(map(named, rows))
    return f"at the samples {samples}; look at them, or lower train.learning_rate or train.max_grad_norm"
