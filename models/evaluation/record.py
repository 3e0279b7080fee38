"""What the evaluation of one held-out object leaves behind."""

from typing import Any

from pydantic import Field

from data.records import Prompt, Record

METRICS = ("identity", "text", "geometric", "saturation", "clipped", "object_found")
"""The numbers of an image that tables average, by the names that its record has them under."""


class EvaluatedImage(Record):
    """One generated image, file `NAME.png`, and its scores."""

    name: str = Field(description="ROW.pPROMPT.sSEED")
    row: str
    prompt: int = Field(description="place in the prompts of the object")
    kind: str = Field(description="background or property")
    seed: int = Field(description="seed of the recipe; noise_seed follows from it, object and prompt, in every row")
    noise_seed: int
    references: int
    identity: float = Field(ge=-1, le=1)
    text: float = Field(ge=-1, le=1)
    geometric: float = Field(ge=0, le=1)
    saturation: float = Field(ge=0, le=1)
    clipped: float = Field(ge=0, le=1)
    object_found: bool


class EvaluationRecord(Record):
    """One held-out object. Files: `ref.I.png` (clean references, the first n are given to the model), `NAME.png`."""

    object_id: str
    category: str
    caption: str
    references: int = Field(description="all that identity is measured against")
    prompts: list[Prompt]
    images: list[EvaluatedImage]
    checkpoint: dict[str, Any]
