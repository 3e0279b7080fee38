"""How a training runs: runtime settings, none of which changes a byte of its result."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from configs.schema import Runtime


class Settings(BaseModel):
    """The runtime's keys of these names; see configs/schema.py."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gradient_checkpointing: bool = Runtime().gradient_checkpointing
    keep_checkpoints: int = Runtime().keep_checkpoints
    trackers: tuple[str, ...] = Runtime().trackers
    peak_tflops: float | None = Runtime().peak_tflops
    prefetch_shards: int = Runtime().prefetch_shards

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:
        """Those among the options that a stage is given."""
        return cls(**{name: options[name] for name in cls.model_fields if name in options})
