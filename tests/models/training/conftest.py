"""A small published dataset and a customization model of a few parameters, so that the loop itself is tested."""

import io
import tarfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from data.images import encode_png
from data.shards import ShardEntry, ShardIndex, ShardWriter
from models.customizer import Features, TrainingBatch

SIDE = 8
SETS_PER_SHARD = (3, 2, 3)
LONGEST = 40
"""Letters of a prompt that the customization model takes."""


def write_dataset(directory: Path, long: Collection[str] = ()) -> Path:
    """Sets set-0.. with images of random pixels; kept images keep their index, so indices have gaps.

    Prompts of the images `long` are longer than the customization model takes.
    """
    rng = np.random.default_rng(0)
    entries, number = [], 0
    for shard, size in enumerate(SETS_PER_SHARD):
        with ShardWriter(directory, "shard", "s" * 64, shard) as out:
            for _ in range(size):
                key, files, samples = f"set-{number}", {}, []
                for place in range(2 + number % 2):
                    index = place + number % 2
                    files[f"{index}.png"] = encode_png(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
                    files[f"{index}.mask.png"] = encode_png(np.ones((SIDE, SIDE), dtype=bool))
                    name, prompt = f"{key}-{index}", f"a mug {number} {index}"
                    prompt += " a word" * LONGEST if name in long else ""
                    samples.append({"index": index, "sample_id": name, "prompt": prompt})
                out.add(key, {"set_id": key, "object_id": f"object-{number}", "samples": samples}, files)
                number += 1
            receipt = out.finish()
        entries.append(ShardEntry(name=receipt.name, bytes=receipt.bytes, sha256=receipt.sha256, keys=receipt.keys))
    index = ShardIndex(stage="shard", signature="s" * 64, shards=entries, failed=[])
    (directory / "index.json").write_text(index.model_dump_json())
    return directory


def write_pairs(path: Path, count: int, more: dict[str, bytes] | None = None, side: int = SIDE) -> Path:
    """A tar of text-image pairs of random pixels, `more` members behind them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(path.name) + count)
    members: dict[str, bytes] = {}
    for number in range(count):
        members[f"{number:04d}.png"] = encode_png(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
        members[f"{number:04d}.txt"] = f"a scene {path.stem} {number}".encode()
    with tarfile.open(path, "w") as tar:
        for name, data in {**members, **(more or {})}.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return path


class SmallCustomizer:
    """Linear in the features of target, text and references; counts what it encodes."""

    def __init__(self) -> None:
        self.encoded_images: list[np.ndarray] = []
        self.encoded_prompts: list[str] = []
        self.batches: list[TrainingBatch] = []
        self.layer: nn.Linear | None = None
        self.poison: str | None = None

    def image_features(self, images: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> list[Features]:
        self.encoded_images += list(images)
        return [{"tokens": torch.from_numpy(image.astype(np.float32) / 255).reshape(-1, 3)} for image in images]

    def target_features(self, images: Sequence[np.ndarray]) -> list[Features]:
        return self.image_features(images, [])

    def check_prompts(self, prompts: Sequence[str]) -> None:
        for prompt in prompts:
            if len(prompt) > LONGEST:
                raise ValueError(f"prompt has {len(prompt)} letters; allowed: {LONGEST}")

    def text_features(self, prompts: Sequence[str]) -> list[Features]:
        self.encoded_prompts += list(prompts)
        return [{"pooled": torch.tensor([float(len(prompt)), 1.0, hash_of(prompt)])} for prompt in prompts]

    def add_adapter(self, rank: int, targets: str, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layer = nn.Linear(3, 3)

    def adapter_parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.layer.named_parameters())

    def adapter_state(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.layer.state_dict().items()}

    def set_adapter_state(self, state: dict[str, Tensor]) -> None:
        self.layer.load_state_dict(state)

    @property
    def network(self) -> nn.Module:
        return self.layer

    def losses(self, batch: TrainingBatch, generators: Sequence[torch.Generator]) -> Tensor:
        self.batches.append(batch)
        losses = []
        rows = zip(batch.targets, batch.texts, batch.references, generators, strict=True)
        for target, text, references, generator in rows:
            seen = target["tokens"].mean(0) + text["pooled"] + sum(own["tokens"].mean(0) for own in references)
            noise = torch.randn(3, generator=generator)
            losses.append((self.layer(seen + noise) - noise).square().mean())
        losses = torch.stack(losses)
        if self.poison is not None:
            bad = [abs(text["pooled"][2].item() - hash_of(self.poison)) < 1e-6 for text in batch.texts]
            losses = torch.where(torch.tensor(bad), torch.nan, losses)
        return losses


def hash_of(prompt: str) -> float:
    return float(sum(ord(letter) * (place + 1) for place, letter in enumerate(prompt)) % 97) / 97


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture
def make_dataset() -> Callable[..., Path]:
    return write_dataset


@pytest.fixture
def customizer() -> SmallCustomizer:
    return SmallCustomizer()


@pytest.fixture
def make_customizer() -> type[SmallCustomizer]:
    return SmallCustomizer


@pytest.fixture
def make_pairs() -> Callable[..., Path]:
    return write_pairs
