"""Sample: reference images and a prompt to an image of that object, with a trained checkpoint.

pipeline = CustomizationPipeline.from_checkpoint("artifacts/train")
image = pipeline("a striped mug on a beach", references=["mug.png"], seed=3).images[0]
"""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from configs.errors import ConfigError
from configs.evaluation import Guidance
from configs.load import validated
from configs.schema import ModelRef
from data.outside_text import parse_json
from data.pictures import Picture, open_reference, prepare_reference, read_picture
from data.release.marking import mark_png
from data.shards import sha256_file, write_atomic
from models import registry
from models.customizer import Customizer, CustomizeRequest, CustomizeSettings, GuidanceTrace
from models.guidance import Norms, OnStep
from models.memory import MemoryLimitError, is_out_of_memory
from models.scorers.grounded import GroundedSegmenter
from models.scorers.segmenter import Segmenter
from models.training.record import CheckpointRecord
from models.training.restore import checkpoint_file, restore

METADATA_KEY = "syncd"


@dataclass(frozen=True)
class CustomizationOutput:
    images: list[Image.Image]
    provenance: list[dict[str, Any]]
    """Of each image: everything that it follows from."""


@dataclass(frozen=True)
class Finder:
    """The models that find the object of a reference: a segmenter, or SAM with a detector that looks for words."""

    segmenter: ModelRef
    detector: ModelRef | None = None
    detection_threshold: float = 0.25

    def load(self, device: str) -> Segmenter | GroundedSegmenter:
        seen = registry.load(self.segmenter, device, "float32")
        if self.detector is None:
            return seen
        return GroundedSegmenter(registry.load(self.detector, device, "float32"), seen, self.detection_threshold)

    def told(self) -> dict[str, Any]:
        """As provenance."""
        found = {"segmenter": f"{self.segmenter.name}@{self.segmenter.revision}"}
        if self.detector is None:
            return found
        detector = f"{self.detector.name}@{self.detector.revision}"
        return {**found, "detector": detector, "detection_threshold": self.detection_threshold}


class CustomizationPipeline:
    """A trained customization model, called like a diffusers pipeline.

    A segmenter finds the object of references that come without mask.
    """

    def __init__(
        self,
        customizer: Customizer,
        record: CheckpointRecord,
        checkpoint_sha256: str,
        dtype: str,
        device: str = "cpu",
        finder: Finder | None = None,
    ) -> None:
        self.customizer, self.record, self.checkpoint_sha256 = customizer, record, checkpoint_sha256
        self.dtype, self.device, self.finder = dtype, device, finder

    @cached_property
    def segmenter(self) -> Segmenter | GroundedSegmenter:
        """Loaded when it is first needed; ValueError if none was named."""
        if self.finder is None:
            wanted = "this model looks" if self.customizer.needs_masks else "you ask to look"
            raise ValueError(
                f"{wanted} at the object of a reference alone: give masks, or name a segmenter, for syncd sample "
                "models.segmenter of the recipe"
            )
        return self.finder.load(self.device)

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        device: str = "cpu",
        dtype: str = "float32",
        segmenter: ModelRef | None = None,
        detector: ModelRef | None = None,
        detection_threshold: float = 0.25,
    ) -> Self:
        """`path`: folder of the train stage (its file is checked against its shard), or a LoRA file by itself.

        Its header says which base model it belongs to, FLUX or U-Net, and how that takes references. SAM as
        `segmenter` needs a `detector`, whose scores count above the threshold.
        """
        customizer, record = restore(Path(path), device, dtype)
        finder = None if segmenter is None else Finder(segmenter, detector, detection_threshold)
        return cls(customizer, record, sha256_file(checkpoint_file(Path(path))), dtype, device, finder)

    def __call__(
        self,
        prompt: str | Sequence[str],
        references: Sequence[Picture] = (),
        masks: Sequence[Picture] | None = None,
        *,
        segment: str | None = None,
        seed: int = 0,
        num_images_per_prompt: int = 1,
        num_inference_steps: int = 30,
        guidance_scale: float = 3.5,
        guidance: Guidance | Mapping[str, Any] | None = None,
        height: int | None = None,
        width: int | None = None,
        progress: OnStep | None = None,
    ) -> CustomizationOutput:
        """Images of the referenced object, `num_images_per_prompt` per prompt with seeds `seed`, `seed + 1`, ...

        References: any number, paths, PIL images or uint8 (H, W, 3). Each is cut to a square around its object and
        resized to the training resolution, which height and width default to. The object is where `masks` are non-zero
        or opaque (one per reference); else where the segmenter finds it, SAM by its name, `segment`. Without masks and
        without a segmenter that can be asked the square is the middle one. `guidance` combines the predictions: a
        `Guidance`, or some of its fields, for example {"image_scale": 2.0}.
        `progress` is told every step.

        Raises ValueError for what cannot be used, if masks are needed and there are neither these nor a segmenter, or
        if the references do not fit into memory; FileNotFoundError for a missing file.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if masks is not None and len(masks) != len(references):
            raise ValueError(f"{len(masks)} masks for {len(references)} references; give one per reference or none")
        if masks is not None and segment is not None:
            raise ValueError(f"masks and segment={segment!r} are both given; give one of them")
        given = {"reference": references, "mask": masks or ()}
        cut_around = "mask" if masks is not None else "middle"
        if masks is None and references and (segment or self.customizer.needs_masks or self._finds_without_words):
            cut_around = "segmenter"
            references = [np.asarray(open_reference(picture)) for picture in references]
            masks = self._found(references, segment)
        cut = [
            prepare_reference(
                picture, masks[place] if masks is not None else None, self.record.height, self.record.width
            )
            for place, picture in enumerate(references)
        ]
        settings = CustomizeSettings(
            height=height or self.record.height,
            width=width or self.record.width,
            steps=num_inference_steps,
            guidance_scale=guidance_scale,
            guidance=guidance if isinstance(guidance, Guidance) else _guidance(guidance or {}),
        )
        images = tuple(image for image, _ in cut)
        found = None if masks is None else tuple(mask for _, mask in cut)
        told = {
            **{f"{kind}_files_sha256": files for kind, own in given.items() if (files := _file_digests(own))},
            "references_cut": cut_around,
            **(self._told_of_finder(segment) if cut_around == "segmenter" else {}),
        }
        requests = [
            CustomizeRequest(text, seed + number, images, found)
            for text in prompts
            for number in range(num_images_per_prompt)
        ]
        trace: GuidanceTrace = {}
        try:
            made = self.customizer.generate_many(requests, settings, trace, progress)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise MemoryLimitError(
                f"out of memory with {len(images)} references, {len(requests)} images of {settings.height} x "
                f"{settings.width} px and {self.dtype}: give fewer references, make fewer or smaller images at a time, "
                "or use bfloat16"
            ) from error
        return CustomizationOutput(
            [Image.fromarray(image) for image in made],
            [
                {**self._provenance(request, settings, trace.get(place, [])), **told}
                for place, request in enumerate(requests)
            ],
        )

    @property
    def _finds_without_words(self) -> bool:
        return self.finder is not None and self.finder.detector is None

    def _told_of_finder(self, segment: str | None) -> dict[str, Any]:
        return {"segment": segment, **({} if self.finder is None else self.finder.told())}

    def _found(self, images: Sequence[np.ndarray], name: str | None) -> tuple[np.ndarray, ...]:
        """Where the segmenter sees the object, bool (H, W) per reference; `name`: for one that looks for words."""
        if not isinstance(self.segmenter, GroundedSegmenter):
            masks = self.segmenter.masks(images)
        elif name:
            masks = self.segmenter.masks(images, [name] * len(images))
        else:
            raise ValueError(
                "the segmenter finds objects by name: say what the references show (segment), or give masks"
            )
        for place, mask in enumerate(masks):
            if not mask.any():
                raise ValueError(
                    f"reference {place + 1}: the segmenter finds no object; give its mask (an all-white one takes the "
                    "whole picture)"
                )
        return tuple(masks)

    def _provenance(
        self,
        request: CustomizeRequest,
        settings: CustomizeSettings,
        norms: Sequence[Norms],
    ) -> dict[str, Any]:
        base = self.record.base_model
        masks = [hashlib.sha256(mask.tobytes()).hexdigest() for mask in request.masks or ()]
        return {
            **({"masks_sha256": masks} if masks else {}),
            "prompt": request.prompt,
            "seed": request.seed,
            "settings": {**asdict(settings), "guidance": settings.guidance.model_dump(mode="json")},
            "dtype": self.dtype,
            "references_sha256": [hashlib.sha256(image.tobytes()).hexdigest() for image in request.references],
            "references_form": self.record.references,
            "guidance_norms": [[round(value, 6) for value in (own.level, own.image, own.text)] for own in norms],
            "checkpoint_sha256": self.checkpoint_sha256,
            "checkpoint_step": self.record.step,
            "dataset_sha256": self.record.dataset_sha256,
            "recipe_sha256": self.record.recipe_sha256,
            "base_model": f"{base.name}@{base.revision}",
            "base_model_licence": base.licence,
        }


def _file_digests(pictures: Sequence[Picture]) -> list[str | None]:
    """sha256 of the files as they were given, None of a picture that is no file; empty if none is."""
    found = [sha256_file(Path(own)) if isinstance(own, str | Path) else None for own in pictures]
    return found if any(found) else []


def _guidance(fields: Mapping[str, Any]) -> Guidance:
    try:
        return validated(Guidance, fields, "guidance")
    except ConfigError as error:
        raise ValueError(str(error)) from error


def save_png(image: Image.Image, provenance: dict[str, Any], path: Path) -> None:
    """PNG marked as synthetic, with `provenance` as JSON in its text chunk `syncd`; equal inputs give equal bytes."""
    info = PngInfo()
    info.add_itxt(METADATA_KEY, json.dumps(provenance, sort_keys=True, ensure_ascii=False))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=info)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, mark_png(buffer.getvalue()))


def read_provenance(path: Path) -> dict[str, Any]:
    """What `save_png` wrote; ValueError if the picture carries none."""
    text = read_picture(path).info.get(METADATA_KEY)
    if text is None:
        raise ValueError(f"{path}: carries no {METADATA_KEY} metadata")
    try:
        told = parse_json(text)
    except ValueError as error:
        raise ValueError(f"{path}: its {METADATA_KEY} metadata cannot be read: {error}") from error
    if not isinstance(told, dict) or not isinstance(told.get("settings"), dict):
        raise ValueError(f"{path}: its {METADATA_KEY} metadata are not those of a sample")
    return told


def sample(
    references: Sequence[Picture],
    prompt: str,
    checkpoint: Path,
    output: Path,
    masks: Sequence[Picture] | None = None,
    seed: int = 0,
    count: int = 1,
    device: str = "cpu",
    dtype: str = "float32",
    finder: Mapping[str, Any] | None = None,
    **settings: Any,
) -> list[Path]:
    """Make and save `count` images of the object; of several, `output` gets -1, -2, ... before its ending.

    `finder` are the arguments of `CustomizationPipeline.from_checkpoint` that find objects, `settings` those of
    `CustomizationPipeline.__call__`. Raises what they raise.
    """
    pipeline = CustomizationPipeline.from_checkpoint(checkpoint, device, dtype, **(finder or {}))
    made = pipeline(prompt, references, masks, seed=seed, num_images_per_prompt=count, **settings)
    paths = [output] if count == 1 else [output.with_stem(f"{output.stem}-{number + 1}") for number in range(count)]
    for path, image, provenance in zip(paths, made.images, made.provenance, strict=True):
        save_png(image, provenance, path)
    return paths
