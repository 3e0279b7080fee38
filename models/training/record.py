"""What a checkpoint is: the record beside it in its shard, and the header of its weights file."""

import json
from typing import Self

from pydantic import Field

from configs.schema import ModelRef
from configs.training import NoisedReferences, ReferenceForm
from data.ids import canonical_json
from data.records import Record


class CheckpointRecord(Record):
    """What a checkpoint is. The header of its weights file carries every field as text, nested ones as JSON."""

    base_model: ModelRef
    dataset_sha256: str = Field(description="of artifacts/shard/index.json, which names every shard by digest")
    pairs_sha256: str | None = Field(
        None,
        description="of the digests of the tars of text-image pairs, which pairs.json lists",
        exclude_if=lambda value: value is None,
    )
    recipe_sha256: str = Field(
        description="of the canonical JSON of seed, models.customizer and train, without the path of pairs"
    )
    signature: str = Field(description="of the training stage: recipe, dataset, stage version and models together")
    references: str = Field(description="separate, joint or noised: how references enter attention")
    noised: NoisedReferences | None = Field(
        None, description="of noised references", exclude_if=lambda value: value is None
    )
    lora_rank: int
    lora_targets: str
    height: int = Field(description="of the training images, in pixels")
    width: int
    step: int = Field(description="optimizer steps")

    @property
    def reference_form(self) -> ReferenceForm:
        return self.noised or self.references

    def header(self) -> dict[str, str]:
        fields = self.model_dump(mode="json")
        return {
            key: value if isinstance(value, str) else canonical_json(value).decode() for key, value in fields.items()
        }

    @classmethod
    def from_header(cls, header: dict[str, str]) -> Self:
        """KeyError if the file was not written by this project."""
        fields = cls.model_fields
        texts = {name: header[name] for name, field in fields.items() if field.is_required() or name in header}
        plain = {name for name, field in fields.items() if field.annotation in (str, str | None)}
        return cls.model_validate({name: text if name in plain else json.loads(text) for name, text in texts.items()})
