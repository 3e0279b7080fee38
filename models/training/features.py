"""Latents and text embeddings of the training shards: computed once, kept on disk, one file per shard digest."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save

from data.reader import decode_set
from data.shards import ShardEntry, ShardIndex, read_shard, write_atomic
from models.customizer import Customizer, Features

BATCH = 64


class FeatureStore:
    """Features of every image and prompt of a dataset.

    Files are memory-mapped and read on demand, so that memory stays flat however large the dataset is; on disk a
    sample takes its latents and its text embedding. A file belongs to one shard digest; `folder` must belong to one
    model.
    """

    def __init__(self, folder: Path, index: ShardIndex) -> None:
        self.folder = folder
        self._shards = index.shards
        self._opened: dict[str, safe_open] = {}
        self._shard_of = {key: entry for entry in index.shards for key in entry.keys}

    def prepare(self, customizer: Customizer, dataset: Path) -> int:
        """Compute what is missing; returns for how many shards that was. ShardError if a shard is not its digest."""
        self.folder.mkdir(parents=True, exist_ok=True)
        missing = [entry for entry in self._shards if not self._path(entry).exists()]
        for entry in missing:
            write_atomic(self._path(entry), _encode_shard(customizer, dataset, entry))
        return len(missing)

    def image(self, key: str, sample_id: str, flipped: bool = False) -> Features:
        """Of one image of set `key`, or of its mirror image."""
        return self._read(key, f"{'flipped' if flipped else 'image'}/{sample_id}")

    def text(self, key: str, prompt: str) -> Features:
        """Of a prompt of set `key`, or of the empty prompt."""
        return self._read(key, f"text/{_digest(prompt)}")

    def _read(self, key: str, prefix: str) -> Features:
        entry = self._shard_of[key]
        if entry.sha256 not in self._opened:
            self._opened[entry.sha256] = safe_open(self._path(entry), framework="pt")
        opened = self._opened[entry.sha256]
        names = json.loads(opened.metadata()["names"])[prefix.split("/")[0]]
        return {name: opened.get_tensor(f"{prefix}/{name}") for name in names}

    def _path(self, entry: ShardEntry) -> Path:
        return self.folder / f"{entry.sha256}.safetensors"


def _encode_shard(customizer: Customizer, dataset: Path, entry: ShardEntry) -> bytes:
    images: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    prompts = {""}
    for sample in read_shard(dataset, entry):
        decoded = decode_set(sample)
        prompts.update(item.prompt for item in decoded.images)
        for item in decoded.images:
            images[f"image/{item.sample_id}"] = item.image, item.mask
            mirrored = (np.ascontiguousarray(part[:, ::-1]) for part in (item.image, item.mask))
            images[f"flipped/{item.sample_id}"] = tuple(mirrored)

    features: dict[str, Features] = {}
    by_size: dict[tuple[int, ...], list[str]] = {}
    for name, (image, _) in images.items():
        by_size.setdefault(image.shape, []).append(name)
    for names in by_size.values():
        for part in _parts(names):
            pictures, masks = zip(*(images[name] for name in part), strict=True)
            features.update(zip(part, customizer.image_features(pictures, masks), strict=True))
    for part in _parts(sorted(prompts)):
        named = (f"text/{_digest(prompt)}" for prompt in part)
        features.update(zip(named, customizer.text_features(part), strict=True))

    names = {prefix.split("/")[0]: sorted(own) for prefix, own in features.items()}
    tensors = {
        f"{prefix}/{name}": tensor.clone(memory_format=torch.contiguous_format)
        for prefix, own in features.items()
        for name, tensor in own.items()
    }
    return save(tensors, metadata={"names": json.dumps(names)})


def _parts(names: Sequence[str]) -> list[list[str]]:
    return [list(names[start : start + BATCH]) for start in range(0, len(names), BATCH)]


def _digest(prompt: str) -> str:
    return hashlib.sha256(prompt.encode()).hexdigest()
