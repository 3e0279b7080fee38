"""What flows between stages: one record per object or per set, stored as the JSON member of its tar sample."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Split = Literal["train", "eval"]


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AssetRecord(Record):
    """One object. Files: `glb`, unless it is described in words only."""

    object_id: str
    split: Split
    category: str
    caption: str
    licence: str = Field(description="SPDX identifier")
    source: str = Field(description="miniature, folder, objaverse or subjects")
    uri: str
    source_sha256: str = Field(description="digest of the file as fetched, or of the description")
    source_format: str
    side_files: dict[str, str] = Field(default={}, description="further files that went into the mesh -> sha256")
    outcome: str = Field(
        description="found, first_seen or generated: how the file compares with the expected digest; described: no mesh"
    )
    mesh_sha256: str | None = Field(description="digest of the GLB member; None if there is no mesh")
    attributes: dict[str, Any] = Field(
        default={}, description="what else the source knows: title, author and page for credit; ground truth"
    )


class Prompt(Record):
    text: str
    detailed: str | None = Field(
        None, description="the text with the object's appearance in it, for making images; None if they are the same"
    )
    kind: str = Field(description="scene, other_object, style; for evaluation: background, property")
    facts: list[dict[str, Any]] = Field(default=[], description="multiple-choice facts: question, choices, answer")


class Rejected(Record):
    text: str
    reason: str


class PromptRecord(Record):
    """The prompts of one object."""

    object_id: str
    split: Split
    category: str
    caption: str = Field(description="object description used in the prompts")
    appearance: str | None = Field(None, description="what an object without a mesh looks like, in words")
    writer: str
    prompts: list[Prompt]
    rejected: list[Rejected] = []


class ViewRecord(Record):
    """One placed view. Depth is 16-bit: metric z-depth = near + value / 65535 * (far - near); 0 is no surface."""

    camera: dict[str, Any]
    near: float
    far: float
    area: float = Field(description="object share of the frame, 0 to 1")
    azimuth_deg: float
    elevation_deg: float


class RenderRecord(Record):
    """K views of one object, none if it has no mesh. Files per view i: `i.rgb.png`, `i.depth.png`, `i.mask.png`."""

    set_id: str
    object_id: str
    split: Split
    category: str
    licence: str
    mesh_sha256: str | None
    views: list[ViewRecord]
    overlaps: dict[str, float] = Field(description="'i-j' -> share of the grid that corresponds, i < j")


class SampleRecord(Record):
    """How one image came to be."""

    sample_id: str
    index: int
    prompt: str
    prompt_kind: str
    prompt_sent: str = Field(description="what the model was given: prompt, appearance if it was told, and suffix")
    facts: list[dict[str, Any]] = []
    seed: int


class GeneratedRecord(Record):
    """K generated images of one object. Files per image i: `i.png`, `i.mask.png`, `i.depth.png` (condition, if any)."""

    set_id: str
    object_id: str
    split: Split
    category: str
    caption: str
    appearance: str | None = Field(None, description="what an object without a mesh looks like, in words")
    licence: str
    mesh_sha256: str | None
    model: str = Field(description="name@revision")
    settings: dict[str, Any]
    correspondence_share: dict[str, float] = Field(description="'target-source' -> visible share of the grid")
    samples: list[SampleRecord]


class ImageScores(Record):
    quality: float = Field(ge=-10, le=20, description="aesthetic score, about 1 to 10")
    identity: float = Field(ge=-1, le=1, description="mean DINOv2 cosine to the others of the set; -1: no object")
    identity_masked: float = Field(ge=-1, le=1, description="the same with the background masked out")
    clip_image: float = Field(ge=-1, le=1, description="mean CLIP image cosine to the rest of the set")
    clip_text: float = Field(ge=-1, le=1, description="CLIP cosine of image and prompt")
    background: float = Field(ge=-1, le=1, description="mean DINOv2 cosine to the rest of the set, objects greyed out")
    saturation: float = Field(ge=0, le=1, description="mean HSV saturation")
    clipped: float = Field(ge=0, le=1, description="share of values that are 0 or 255")
    area: float = Field(ge=0, le=1, description="object share of the frame")
    cut_off: float = Field(ge=0, le=1, description="share of the object's outline on the border of the frame")


class ScoreRecord(Record):
    """Scores of every image of a set; nothing is decided here."""

    set_id: str
    object_id: str
    licence: str = Field(description="of the asset, as the set was generated from it")
    images: list[ImageScores]
    identity_pairs: list[list[float]] = Field(
        description="K x K DINOv2 cosine of object crops, -1 beside an image without"
    )
    background_pairs: list[list[float]] = Field(description="K x K DINOv2 cosine of the images, objects greyed out")
    hashes: list[str] = Field(description="perceptual hash of every image, 64 bits in hexadecimal")


class Reason(Record):
    code: str = Field(
        description="of an image: no_object, low_quality, clipped, saturated, small_object, cut_off, off_prompt, "
        "low_identity, same_context, near_duplicate; of a set: licence, set_too_small, duplicate_set"
    )
    value: float | None = Field(None, description="what was measured; None of a licence")
    threshold: float | None = None
    licence: str | None = Field(None, description="that is not allowed", exclude_if=lambda value: value is None)


class ImageDecision(Record):
    kept: bool
    identity: float | None = Field(
        None, description="mean cosine to the images that quality left, as min_identity judges; None if it fell before"
    )
    reasons: list[Reason] = []


class DecisionRecord(Record):
    set_id: str
    object_id: str
    kept: bool
    images: list[ImageDecision]
    reasons: list[Reason] = Field(default=[], description="why the whole set was dropped")
    duplicate_of: str | None = Field(None, description="the earlier set that this one nearly repeats")
