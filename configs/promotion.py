"""The promotion section of a recipe: when a new checkpoint may take the place of the current one."""

from typing import Annotated

from pydantic import Field

from configs.section import Section, Share


class Promotion(Section):
    """Margins of models/evaluation/promotion.py, in units of the metrics. Like a failure budget they decide what is
    accepted and change no byte of it: no stage tracks them."""

    margin: Share = Field(0.02, description="loss of the geometric mean that is given away at most")
    part_margin: Share = Field(0.04, description="loss of identity or text alone that is not worth a refusal")
    min_objects: Annotated[int, Field(ge=2)] = Field(
        5, description="objects that both models were evaluated on; intervals over fewer are too narrow"
    )
    min_common: Share = Field(
        0.9, description="of the objects that the other model was evaluated on, the share that the candidate was too"
    )
