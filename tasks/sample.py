"""Sample: reference images and a prompt to an image of that object, with a trained checkpoint.

pipeline = CustomizationPipeline.from_checkpoint("artifacts/train")
image = pipeline("a striped mug on a beach", references=["mug.png"], seed=3).images[0]
"""

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
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
from data.pictures import Picture, open_picture, prepare_reference, read_picture
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


class CustomizationPipeline:
    """A trained customization model, called like a diffusers pipeline.

    A segmenter finds the object of references that come without mask: for a model that looks at the object alone, and
    for a call that asks for it.
    """

    def __init__(
        self,
        customizer: Customizer,
        record: CheckpointRecord,
        checkpoint_sha256: str,
        dtype: str,
        load_segmenter: Callable[[], Segmenter | GroundedSegmenter] | None = None,
    ) -> None:
        self.customizer, self.record, self.checkpoint_sha256 = customizer, record, checkpoint_sha256
        self.dtype, self._load_segmenter = dtype, load_segmenter

    @cached_property
    def segmenter(self) -> Segmenter | GroundedSegmenter:
        """Loaded when it is first needed; ValueError if none was named."""
        if self._load_segmenter is None:
            wanted = "this model looks" if self.customizer.needs_masks else "you ask to look"
            raise ValueError(f"{wanted} at the object of a reference alone: give masks, or name a segmenter")
        return self._load_segmenter()

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

        def load() -> Segmenter | GroundedSegmenter:
            seen = registry.load(segmenter, device, "float32")
            if detector is None:
                return seen
            return GroundedSegmenter(registry.load(detector, device, "float32"), seen, detection_threshold)

        sha256 = sha256_file(checkpoint_file(Path(path)))
        return cls(customizer, record, sha256, dtype, None if segmenter is None else load)

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

        References: any number, paths, PIL images or uint8 (H, W, 3). Each is cut to its middle square, or to a square
        around the object with `masks` (one per reference, non-zero on the object) or `segment` (what the object is
        called: the segmenter finds it), and resized to the training resolution. Height and width default to it.
        `guidance` combines the predictions: a `Guidance`, or some of its fields, for example {"image_scale": 2.0}.
        `progress` is told every step.

        Raises ValueError for what cannot be used, if masks are needed and there are neither these nor a segmenter, or
        if the references do not fit into memory; FileNotFoundError for a missing file.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if masks is not None and len(masks) != len(references):
            raise ValueError(f"{len(masks)} masks for {len(references)} references; give one per reference or none")
        if masks is not None and segment is not None:
            raise ValueError(f"masks and segment={segment!r} are both given; give one of them")
        cut_around = "mask" if masks is not None else "segmenter" if segment and references else "middle"
        if cut_around == "segmenter":
            whole = [np.asarray(open_picture(picture).convert("RGB")) for picture in references]
            references, masks = whole, self._found(whole, segment)
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
        needed = self.customizer.needs_masks and bool(images)
        found = (
            tuple(mask for _, mask in cut) if masks is not None else self._found(images, segment) if needed else None
        )
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
                self._provenance(request, settings, cut_around, segment, trace.get(place, []))
                for place, request in enumerate(requests)
            ],
        )

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
                raise ValueError(f"reference {place + 1}: the segmenter finds no object; give its mask")
        return tuple(masks)

    def _provenance(
        self,
        request: CustomizeRequest,
        settings: CustomizeSettings,
        cut_around: str,
        segment: str | None,
        norms: Sequence[Norms],
    ) -> dict[str, Any]:
        base = self.record.base_model
        seen = request.masks if self.customizer.needs_masks else None
        masks = {"masks_sha256": [hashlib.sha256(mask.tobytes()).hexdigest() for mask in seen]} if seen else {}
        return {
            **masks,
            "prompt": request.prompt,
            "seed": request.seed,
            "settings": {**asdict(settings), "guidance": settings.guidance.model_dump(mode="json")},
            "dtype": self.dtype,
            "references_sha256": [hashlib.sha256(image.tobytes()).hexdigest() for image in request.references],
            "references_cut": cut_around,
            "segment": segment,
            "references_form": self.record.references,
            "guidance_norms": [[round(value, 6) for value in (own.level, own.image, own.text)] for own in norms],
            "checkpoint_sha256": self.checkpoint_sha256,
            "checkpoint_step": self.record.step,
            "dataset_sha256": self.record.dataset_sha256,
            "recipe_sha256": self.record.recipe_sha256,
            "base_model": f"{base.name}@{base.revision}",
            "base_model_licence": base.licence,
        }


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
