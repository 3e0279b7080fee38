"""What every part of a recipe or runtime is built from."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Budget(Section):
    max_failed_fraction: Share = Field(0.1, description="share of failed keys above which the stage fails")
    shard_size: Count = Field(32, description="keys per shard")
