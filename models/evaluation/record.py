"""What the evaluation of one object leaves behind."""

from typing import Any

from pydantic import Field

from data.records import Prompt, Record

METRICS = (
    "identity",
    "text",
    "geometric",
    "clip_score",
    "clip_i",
    "dino",
    "dinov2_i",
    "copy_paste",
    "diversity",
    "saturation",
    "clipped",
    "object_found",
)
"""The numbers of an image that tables average, by the names that its record has them under."""


class ImageMetrics(Record):
    """Scores of one image; None is what was not asked for, or cannot be said of it."""

    identity: float = Field(
        ge=-1, le=1, description="MDINOv2-I: masked DINOv2 cosine to the references, mean; 0 if no object was found"
    )
    text: float = Field(
        ge=-1,
        le=1,
        description="clip_facts, tifa: share of the questions answered right; clip_score: cosine of image and prompt",
    )
    geometric: float = Field(
        ge=0,
        le=1,
        description="geometric mean of identity and text, negatives counted as 0; tables average this, not its parts",
    )
    clip_score: float | None = Field(None, ge=-1, le=1, description="CLIP cosine of image and prompt")
    clip_i: float | None = Field(None, ge=-1, le=1, description="CLIP cosine to the references, whole images, mean")
    dino: float | None = Field(None, ge=-1, le=1, description="the same by DINO")
    dinov2_i: float | None = Field(None, ge=-1, le=1, description="the same by DINOv2")
    copy_paste: float | None = Field(
        None, ge=-1, le=1, description="DINOv2 cosine to the most similar reference, the objects greyed out in both"
    )
    diversity: float | None = Field(
        None, ge=0, le=2, description="1 - DINOv2 cosine to the images of other seeds, mean; None for a single seed"
    )
    saturation: float = Field(ge=0, le=1, description="mean HSV saturation")
    clipped: float = Field(ge=0, le=1, description="share of channel values at 0 or 255: what overexposure does")
    object_found: bool


class EvaluatedImage(ImageMetrics):
    """One generated image, file `NAME.png`, and its scores."""

    name: str = Field(description="ROW.pPROMPT.sSEED")
    row: str
    prompt: int = Field(description="place in the prompts of the object")
    kind: str = Field(description="background or property")
    seed: int = Field(description="seed of the recipe; noise_seed follows from it, object and prompt, in every row")
    noise_seed: int | None = Field(description="None for images that were made elsewhere")
    references: int | None = Field(description="given to the model or tuned on; None for images made elsewhere")
    guidance_norms: list[tuple[float, float, float]] = Field(
        [], description="of every step, before scaling: noise level, |g_I| and |g_c|; empty without references"
    )


class EvaluationRecord(Record):
    """One evaluated object. Files: `ref.I.png` (clean references, the first n are given to the model), `NAME.png`."""

    object_id: str
    category: str
    caption: str
    references: int = Field(description="all that identity is measured against")
    prompts: list[Prompt]
    images: list[EvaluatedImage]
    checkpoint: dict[str, Any]
