"""Latents and text embeddings of the training shards: computed once, kept on disk, one file per shard digest."""

import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save

from configs.training import Train
from data.ids import seed_for
from data.reader import SetImage, decode_set
from data.shards import Failure, Sample, ShardEntry, ShardIndex, write_atomic
from data.squares import jittered_square
from data.streaming import AHEAD, ShardSource
from models.customizer import Customizer, Features, too_long
from models.training.examples import may_flip

BATCH = 64
Picture = tuple[np.ndarray, np.ndarray]
"""uint8 (H, W, 3) and the object in it, bool (H, W)."""


class FeatureStore:
    """Features of every image and prompt of a dataset, and of what references show of the images.

    Files are memory-mapped and read on demand, so that memory stays flat however large the dataset is; on disk an
    image takes its latents and its text embedding, and the latents of its crops and mirror images if examples can ask
    for them. An image whose prompt a text encoder would have to cut is skipped, and named in the file. A file belongs
    to one shard digest; `folder` must belong to one origin of features (models/training/folders.py).
    """

    def __init__(self, folder: Path, index: ShardIndex, section: Train, seed: int) -> None:
        self.folder = folder
        self._section, self._seed = section, seed
        self._shards = index.shards
        self._opened: dict[str, safe_open] = {}
        self._shard_of = {key: entry for entry in index.shards for key in entry.keys}

    def prepare(self, customizer: Customizer, dataset: Path | str, ahead: int = AHEAD) -> int:
        """Compute what is missing; returns for how many shards that was. ShardError if a shard is not its digest.

        `dataset` is where the shards are, a folder or a URL; from a store, `ahead` are fetched before their turn.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        missing = [entry for entry in self._shards if not self._path(entry).exists()]
        with ShardSource(dataset, ahead) as source:
            for number, entry in enumerate(missing):
                samples = source.read(entry, missing[number + 1 : number + 1 + ahead])
                write_atomic(self._path(entry), self._encode(customizer, samples))
        return len(missing)

    @cached_property
    def skipped(self) -> Mapping[str, Failure]:
        """Sample id -> why the image is not trained on, in the order of the shards."""
        told = [failure for entry in self._shards for failure in json.loads(self._metadata(entry)["skipped"])]
        return {failure["key"]: Failure.model_validate(failure) for failure in told}

    @cached_property
    def images(self) -> int:
        """How many images can be trained on."""
        return sum(int(self._metadata(entry)["images"]) for entry in self._shards)

    def usable(self, sample: Sample) -> Sample | None:
        """A set with those of its images that can be trained on; None if there is none."""
        images = sample.record["samples"]
        kept = [image for image in images if image["sample_id"] not in self.skipped]
        if len(kept) == len(images):
            return sample
        return replace(sample, record={**sample.record, "samples": kept}) if kept else None

    def image(self, key: str, sample_id: str, flipped: bool = False, crop: int | None = None) -> Features:
        """Of one image of set `key`, whole or one of its crops, or of the mirror image."""
        return self._read(key, _name(sample_id, flipped, crop))

    def text(self, key: str, prompt: str) -> Features:
        """Of a prompt of set `key`, or of the empty prompt."""
        return self._read(key, f"text/{_digest(prompt)}")

    def _read(self, key: str, prefix: str) -> Features:
        opened = self._open(self._shard_of[key])
        names = json.loads(opened.metadata()["names"])[prefix.split("/")[0]]
        return {name: opened.get_tensor(f"{prefix}/{name}") for name in names}

    def _open(self, entry: ShardEntry) -> safe_open:
        if entry.sha256 not in self._opened:
            self._opened[entry.sha256] = safe_open(self._path(entry), framework="pt")
        return self._opened[entry.sha256]

    def _metadata(self, entry: ShardEntry) -> dict[str, str]:
        return self._open(entry).metadata()

    def _path(self, entry: ShardEntry) -> Path:
        return self.folder / f"{entry.sha256}.safetensors"

    def _encode(self, customizer: Customizer, samples: Iterable[Sample]) -> bytes:
        images: dict[str, Picture] = {}
        prompts = {""}
        kept, skipped = 0, []
        for sample in samples:
            fitting, failures = _fitting(customizer, decode_set(sample).images)
            kept += len(fitting)
            skipped += failures
            prompts.update(item.prompt for item in fitting)
            flips = may_flip(len(fitting), self._section)
            for item in fitting:
                images.update(_pictures(item, self._section.reference_crops, flips, self._seed))

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
        told = json.dumps([failure.model_dump() for failure in skipped])
        return save(tensors, metadata={"names": json.dumps(names), "images": str(kept), "skipped": told})


def _fitting(customizer: Customizer, images: Iterable[SetImage]) -> tuple[list[SetImage], list[Failure]]:
    """Images whose prompts the text encoders take whole, and the others with the reason."""
    fitting, failures = [], []
    for item in images:
        problem = too_long(customizer, item.prompt)
        if problem is None:
            fitting.append(item)
        else:
            failures.append(Failure(key=item.sample_id, reason="long_prompt", detail=problem))
    return fitting, failures


def _name(sample_id: str, flipped: bool, crop: int | None) -> str:
    if crop is None:
        return f"{'flipped' if flipped else 'image'}/{sample_id}"
    return f"{'flipped_crop' if flipped else 'crop'}/{sample_id}/{crop}"


def _pictures(item: SetImage, crops: int, flips: bool, seed: int) -> Iterator[tuple[str, Picture]]:
    """The whole image, which targets are, and all that a reference can show of it, by name."""
    whole = item.image, item.mask
    yield _name(item.sample_id, False, None), whole
    shown = {crop: _crop(item, crop, seed) for crop in range(crops)} or {None: whole}
    for crop, picture in shown.items():
        if crop is not None:
            yield _name(item.sample_id, False, crop), picture
        if flips:
            image, mask = (np.ascontiguousarray(part[:, ::-1]) for part in picture)
            yield _name(item.sample_id, True, crop), (image, mask)


def _crop(item: SetImage, crop: int, seed: int) -> Picture:
    """A jittered square around the object, of the whole image's size; without an object the whole image."""
    mask = Image.fromarray(item.mask.astype(np.uint8) * 255)
    box = mask.getbbox()
    if box is None:
        return item.image, item.mask
    rng = random.Random(seed_for(seed, "train", f"crop-{item.sample_id}-{crop}"))
    square = jittered_square(box, mask.size, rng)
    height, width = item.mask.shape
    return square.cut(Image.fromarray(item.image), height, width), square.cut_mask(mask, height, width)


def _parts(names: Sequence[str]) -> list[list[str]]:
    return [list(names[start : start + BATCH]) for start in range(0, len(names), BATCH)]


def _digest(prompt: str) -> str:
    return hashlib.sha256(prompt.encode()).hexdigest()
