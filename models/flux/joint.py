"""References as part of the target's own sequence: the form of the authors' release."""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.flux.layout import image_ids
from models.flux.reference import Reference, row_offsets


@dataclass(frozen=True)
class JointReferences:
    """Tokens (B, R, in_channels), ids (R, 3), visible (B, R) bool."""

    tokens: Tensor
    ids: Tensor
    visible: Tensor | None

    def select(self, rows: Tensor) -> "JointReferences":
        """Those of the samples `rows` (N,) int64."""
        return JointReferences(self.tokens[rows], self.ids, None if self.visible is None else self.visible[rows])


def join(references: list[list[Reference]], grid: tuple[int, int]) -> JointReferences:
    """Pad the samples to the longest list; ValueError if their j-th references differ in size, since ids are shared."""
    longest = max(references, key=len)
    for own in references:
        for place, (reference, first) in enumerate(zip(own, longest, strict=False)):
            if (reference.height, reference.width) != (first.height, first.width):
                raise ValueError(
                    f"reference {place} has {reference.height} x {reference.width} tokens in one sample of the batch "
                    f"and {first.height} x {first.width} in another; the joint form needs one size, separate does not"
                )
    device = longest[0].tokens.device
    ids = [
        image_ids(reference.height, reference.width, offset, device)
        for reference, offset in zip(longest, row_offsets(grid[0], longest), strict=True)
    ]
    total = sum(len(part) for part in ids)
    tokens = longest[0].tokens.new_zeros(len(references), total, longest[0].tokens.shape[1])
    visible = torch.zeros(len(references), total, dtype=torch.bool, device=device)
    for row, own in enumerate(references):
        if own:
            joined = torch.cat([reference.tokens for reference in own])
            tokens[row, : len(joined)] = joined
            visible[row, : len(joined)] = True
    return JointReferences(tokens, torch.cat(ids), None if bool(visible.all()) else visible)
