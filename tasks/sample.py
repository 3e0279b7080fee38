"""Sample: reference images and a prompt to an image of that object, with a trained checkpoint.

pipeline = CustomizationPipeline.from_checkpoint("artifacts/train")
image = pipeline("a striped mug on a beach", references=["mug.png"], seed=3).images[0]
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from configs.load import ConfigError, validated
from configs.schema import Guidance, ModelRef
from data.shards import sha256_file
from data.squares import middle_square, object_square
from models import registry
from models.customizer import Customizer, CustomizeRequest, CustomizeSettings
from models.scorers.segmenter import Segmenter
from models.training.record import CheckpointRecord
from models.training.restore import checkpoint_file, restore

METADATA_KEY = "syncd"
Picture = str | Path | Image.Image | np.ndarray


@dataclass(frozen=True)
class CustomizationOutput:
    images: list[Image.Image]
    provenance: list[dict[str, Any]]
    """Of each image: everything that it follows from."""


class CustomizationPipeline:
    """A trained customization model, called like a diffusers pipeline.

    `segmenter` finds the object of references that come without mask, for a model that looks at the object alone.
    """

    def __init__(
        self,
        customizer: Customizer,
        record: CheckpointRecord,
        checkpoint_sha256: str,
        segmenter: Segmenter | None = None,
    ) -> None:
        self.customizer, self.record, self.checkpoint_sha256 = customizer, record, checkpoint_sha256
        self.segmenter = segmenter

    @classmethod
    def from_checkpoint(
        cls, path: str | Path, device: str = "cpu", dtype: str = "float32", segmenter: ModelRef | None = None
    ) -> Self:
        """`path`: folder of the train stage (its file is checked against its shard), or a LoRA file by itself.

        `segmenter` is loaded if the model needs masks.
        """
        customizer, record = restore(Path(path), device, dtype)
        finder = registry.load(segmenter, device, "float32") if segmenter and customizer.needs_masks else None
        return cls(customizer, record, sha256_file(checkpoint_file(Path(path))), finder)

    def __call__(
        self,
        prompt: str | Sequence[str],
        references: Sequence[Picture] = (),
        masks: Sequence[Picture] | None = None,
        *,
        seed: int = 0,
        num_images_per_prompt: int = 1,
        num_inference_steps: int = 30,
        guidance_scale: float = 3.5,
        guidance: Guidance | Mapping[str, Any] | None = None,
        height: int | None = None,
        width: int | None = None,
    ) -> CustomizationOutput:
        """Images of the referenced object, `num_images_per_prompt` per prompt with seeds `seed`, `seed + 1`, ...

        References: any number, paths, PIL images or uint8 (H, W, 3). Each is cut to its middle square, or with `masks`
        (one per reference, non-zero on the object) to a square around the object, and resized to the training
        resolution. Height and width default to it. `guidance` combines the predictions: a `Guidance`, or some of its
        fields, for example {"image_scale": 2.0}. Raises ValueError for what cannot be used, or if the model needs
        masks and there are neither these nor a segmenter; FileNotFoundError for a missing file.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if masks is not None and len(masks) != len(references):
            raise ValueError(f"{len(masks)} masks for {len(references)} references; give one per reference or none")
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
        found = tuple(mask for _, mask in cut) if masks is not None else self._masks(images)
        requests = [
            CustomizeRequest(text, seed + number, images, found)
            for text in prompts
            for number in range(num_images_per_prompt)
        ]
        made = self.customizer.generate_many(requests, settings)
        return CustomizationOutput(
            [Image.fromarray(image) for image in made], [self._provenance(request, settings) for request in requests]
        )

    def _masks(self, images: Sequence[np.ndarray]) -> tuple[np.ndarray, ...] | None:
        """Where the object is, bool (H, W) per reference; None for a model that needs no masks."""
        if not self.customizer.needs_masks or not images:
            return None
        if self.segmenter is None:
            raise ValueError("this model looks at the object of a reference alone: give masks, or name a segmenter")
        masks = self.segmenter.masks(images)
        for place, mask in enumerate(masks):
            if not mask.any():
                raise ValueError(f"reference {place + 1}: the segmenter finds no object; give its mask")
        return tuple(masks)

    def _provenance(self, request: CustomizeRequest, settings: CustomizeSettings) -> dict[str, Any]:
        base = self.record.base_model
        seen = request.masks if self.customizer.needs_masks else None
        masks = {"masks_sha256": [hashlib.sha256(mask.tobytes()).hexdigest() for mask in seen]} if seen else {}
        return {
            **masks,
            "prompt": request.prompt,
            "seed": request.seed,
            "settings": {**asdict(settings), "guidance": settings.guidance.model_dump(mode="json")},
            "references_sha256": [hashlib.sha256(image.tobytes()).hexdigest() for image in request.references],
            "references_form": self.record.references,
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


def prepare_reference(
    picture: Picture, mask: Picture | None, height: int, width: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """The middle square of a picture, or the square around its object, resized: uint8 (height, width, 3).

    With `mask` also that square of it, bool (height, width): pixels that hold any of the object.
    """
    image = _open(picture)
    if mask is None:
        return middle_square(image.size).cut(image, height, width), None
    shown = _open(mask).convert("L").point(lambda value: 255 if value else 0)
    if shown.size != image.size:
        raise ValueError(
            f"mask is {shown.width} x {shown.height}, its reference {image.width} x {image.height}; they must be equal"
        )
    box = shown.getbbox()
    if box is None:
        raise ValueError("mask is empty; it must be non-zero on the object")
    square = object_square(box, image.size)
    return square.cut(image, height, width), square.cut_mask(shown, height, width)


def _open(picture: Picture) -> Image.Image:
    if isinstance(picture, Image.Image):
        return picture
    if isinstance(picture, np.ndarray):
        if picture.dtype not in (np.uint8, np.bool_):
            raise ValueError(
                f"picture is {picture.dtype} {picture.shape}; allowed: uint8 (H, W, 3), bool or uint8 (H, W)"
            )
        return Image.fromarray(picture.astype(np.uint8) * 255 if picture.dtype == np.bool_ else picture)
    try:
        return Image.open(picture)
    except UnidentifiedImageError as error:
        raise ValueError(f"{picture}: not a picture that can be read") from error


def save_png(image: Image.Image, provenance: dict[str, Any], path: Path) -> None:
    """PNG with `provenance` as JSON in its text chunk `syncd`; equal inputs give equal bytes."""
    info = PngInfo()
    info.add_itxt(METADATA_KEY, json.dumps(provenance, sort_keys=True, ensure_ascii=False))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, format="PNG", pnginfo=info)


def read_provenance(path: Path) -> dict[str, Any]:
    """What `save_png` wrote; ValueError if the picture carries none."""
    with Image.open(path) as image:
        image.load()
        text = image.info.get(METADATA_KEY)
    if text is None:
        raise ValueError(f"{path}: carries no {METADATA_KEY} metadata")
    return json.loads(text)


def sample(
    references: Sequence[Picture],
    prompt: str,
    checkpoint: Path,
    output: Path,
    masks: Sequence[Picture] | None = None,
    seed: int = 0,
    count: int = 1,
    device: str = "cpu",
    segmenter: ModelRef | None = None,
    **settings: Any,
) -> list[Path]:
    """Make and save `count` images of the object; of several, `output` gets -1, -2, ... before its ending.

    `settings` are those of `CustomizationPipeline.__call__`. Raises what it raises.
    """
    pipeline = CustomizationPipeline.from_checkpoint(checkpoint, device, segmenter=segmenter)
    made = pipeline(prompt, references, masks, seed=seed, num_images_per_prompt=count, **settings)
    paths = [output] if count == 1 else [output.with_stem(f"{output.stem}-{number + 1}") for number in range(count)]
    for path, image, provenance in zip(paths, made.images, made.provenance, strict=True):
        save_png(image, provenance, path)
    return paths
