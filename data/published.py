"""The record of one set in the published dataset: all that is known of it, in one place."""

from dataclasses import dataclass
from typing import Any, Self

from pydantic import Field

from data.records import ImageScores, Reason, Record, SampleRecord, Split


class PublishedAsset(Record):
    """The mesh or the description that the object comes from."""

    source: str = Field(description="miniature, folder, objaverse or subjects")
    uri: str
    licence: str = Field(description="SPDX identifier; the terms under which it was used")
    source_sha256: str = Field(description="digest of the file as fetched, or of the description")
    mesh_sha256: str | None = Field(description="digest of the GLB that was rendered; None without a mesh")
    title: str | None = Field(None, description="as its source names it, for credit; None if the source does not")
    author: str | None = Field(None, description="as its source names them; None if the source does not")
    page: str | None = Field(None, description="address of the asset's own page; None if the source has none")


class PublishedSample(SampleRecord):
    """One kept image: `KEY.INDEX.png` with its object mask `KEY.INDEX.mask.png`."""

    scores: ImageScores


class DroppedSample(Record):
    """An image of the set that is not in the dataset, and why."""

    sample_id: str
    index: int
    scores: ImageScores
    reasons: list[Reason]


class PublishedRecord(Record):
    """One set: its kept images, and where everything about them came from."""

    set_id: str
    object_id: str
    split: Split
    category: str
    caption: str
    appearance: str | None = Field(
        None, description="what an object without a mesh looks like; in no `prompt`, but in `prompt_sent`"
    )
    asset: PublishedAsset
    model: str = Field(description="generator as name@revision")
    settings: dict[str, Any] = Field(description="generation settings")
    samples: list[PublishedSample] = Field(min_length=2)
    dropped: list[DroppedSample]
    identity_pairs: list[list[float]] = Field(description="DINOv2 cosines of all generated images, by index")
    thresholds: dict[str, float] = Field(description="selection thresholds in force")


@dataclass(frozen=True, slots=True)
class SetOrigin:
    """What a dataset tells of one set as a whole: of millions of sets, all of them fit into memory."""

    set_id: str
    object_id: str
    category: str
    model: str
    images: int
    asset: PublishedAsset

    @classmethod
    def of(cls, record: PublishedRecord) -> Self:
        images = len(record.samples)
        return cls(record.set_id, record.object_id, record.category, record.model, images, record.asset)
