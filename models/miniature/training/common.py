"""What the training of every net shares: batches, AdamW with linear decay, EMA, checkpoints, a log, fp16 weights."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.shards import write_atomic

CHECKPOINT_SECONDS = 120.0
EMA = 0.999


@dataclass(frozen=True)
class Cost:
    """What a training took: optimizer steps, samples, wall-clock seconds over all its parts, and its last loss."""

    steps: int
    samples: int
    seconds: float
    loss: float


def to_tensor(images: np.ndarray) -> Tensor:
    """uint8 (N, H, W, 3), or grey (N, H, W) as three equal channels, to float32 (N, 3, H, W) in [-1, 1]."""
    stack = images if images.ndim == 4 else np.repeat(images[..., None], 3, axis=3)
    return torch.from_numpy(np.ascontiguousarray(stack.transpose(0, 3, 1, 2))).float() / 127.5 - 1


@dataclass(frozen=True)
class Draws:
    """All randomness of one step, from the seed and the step's number alone: a resumed run draws what one in a piece
    would."""

    seed: int
    step: int

    @cached_property
    def words(self) -> Random:
        return Random(f"words-{self.seed}-{self.step}")

    @cached_property
    def numbers(self) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.step])

    @cached_property
    def noise(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.words.getrandbits(62))

    def rows(self, count: int, batch: int) -> np.ndarray:
        """The step's `batch` of `count` items: every epoch goes once through them in an order of its own."""
        if count < batch:
            raise ValueError(f"{count} items; a batch needs {batch}")
        epoch, place = divmod(self.step, count // batch)
        return _order(count, self.seed, epoch)[place * batch : (place + 1) * batch]


@lru_cache(maxsize=4)
def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch, count]).permutation(count)


def fit(
    name: str,
    nets: nn.Module,
    steps: int,
    learning_rate: float,
    batch: int,
    loss_of: Callable[[Draws], Tensor],
    work_dir: Path,
    seed: int,
) -> Cost:
    """AdamW with warm-up and linear decay under bfloat16 autocast; leaves the EMA weights in `nets`.

    A checkpoint every two minutes; a later call goes on from it. Each line of NAME.jsonl in `work_dir` has the step,
    the smoothed loss and the seconds. Raises FloatingPointError when the loss is not finite.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    decayed = [value for value in nets.parameters() if value.requires_grad and value.ndim > 1]
    plain = [value for value in nets.parameters() if value.requires_grad and value.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.02}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.99))
    shadow = {key: value.detach().clone() for key, value in nets.state_dict().items()}
    checkpoint = work_dir / f"{name}.pt"
    step, spent, smooth = 0, 0.0, float("nan")
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        nets.load_state_dict(saved["nets"])
        optimizer.load_state_dict(saved["optimizer"])
        shadow, step, spent, smooth = saved["shadow"], saved["step"], saved["seconds"], saved["loss"]
    began = time.monotonic() - spent
    written = time.monotonic()
    nets.train()
    with (work_dir / f"{name}.jsonl").open("a", encoding="utf-8") as log:
        while step < steps:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * min(1.0, (step + 1) / 100) * (1 - step / steps)
            draws = Draws(seed, step)
            torch.manual_seed(draws.words.getrandbits(62))
            with torch.autocast("cpu", torch.bfloat16):
                loss = loss_of(draws)
            value = loss.item()
            if not np.isfinite(value):
                raise FloatingPointError(f"{name}: the loss is {value} at step {step}")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(nets.parameters(), 1.0)
            optimizer.step()
            step += 1
            _follow(shadow, nets, min(EMA, (step + 1) / (step + 10)))
            smooth = value if np.isnan(smooth) else 0.98 * smooth + 0.02 * value
            if step % 25 == 0:
                line = {"step": step, "loss": round(smooth, 5), "seconds": round(time.monotonic() - began, 1)}
                log.write(json.dumps(line) + "\n")
                log.flush()
            if time.monotonic() - written > CHECKPOINT_SECONDS:
                written = time.monotonic()
                state = {"nets": nets.state_dict(), "optimizer": optimizer.state_dict(), "shadow": shadow}
                _save(checkpoint, {**state, "step": step, "seconds": written - began, "loss": smooth})
    nets.load_state_dict(shadow)
    nets.eval()
    return Cost(step, step * batch, round(time.monotonic() - began, 1), round(smooth, 5))


@torch.no_grad()
def _follow(shadow: dict[str, Tensor], nets: nn.Module, decay: float) -> None:
    values = nets.state_dict()
    floating = [key for key, value in values.items() if value.is_floating_point()]
    torch._foreach_lerp_([shadow[key] for key in floating], [values[key] for key in floating], 1 - decay)


def _save(path: Path, state: dict[str, Any]) -> None:
    partial = path.with_suffix(".part")
    torch.save(state, partial)
    partial.replace(path)


def write_json(path: Path, value: Any) -> None:
    write_atomic(path, (json.dumps(value, indent=1) + "\n").encode())


def save_half(model: Any, folder: Path) -> None:
    """`save_pretrained` in float16; `model` itself is left as it is."""
    state = {key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()}
    kept = {key: value.clone() for key, value in model.state_dict().items()}
    model.half()
    model.load_state_dict(state)
    model.save_pretrained(folder, safe_serialization=True)
    model.float()
    model.load_state_dict(kept)
