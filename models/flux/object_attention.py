"""Object masks from text-to-image attention, for subjects without a render (thesis appendix C.1.1).

How much an image token looks at the words that name the object: the softmax over text tokens of image queries against
text keys, summed over the words' tokens, mean over heads, layers and steps so far. Min-max and Otsu's threshold make it
a mask.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from models.prompts.naming import occurrences

BINS = 256


def token_span(tokenizer: PreTrainedTokenizerBase, prompt: str, name: str) -> list[int]:
    """Places among `tokenizer`'s tokens of all words of `prompt` that name the object (see `occurrences`).

    ValueError if the prompt does not name it, or only behind the tokenizer's limit.
    """
    places = occurrences(prompt, name)
    if not places:
        raise ValueError(f"the prompt does not name its {name!r}, whose mask comes from that word: {prompt!r}")
    encoded = tokenizer(
        prompt, truncation=True, max_length=tokenizer.model_max_length, return_offsets_mapping=True
    ).offset_mapping
    span = [
        token
        for token, (start, end) in enumerate(encoded)
        if start < end and any(start < stop and end > begin for begin, stop in places)
    ]
    if not span:
        limit = tokenizer.model_max_length
        raise ValueError(f"the prompt names its {name!r} only behind its first {limit} tokens: {prompt!r}")
    return span


class ObjectAttention:
    """Adds up, in place, how much each image token looks at the object's words: memory does not depend on the number
    of layers and steps.

    `spans`: token places of the object's words, one list for each of the B images.
    """

    def __init__(self, spans: Sequence[Sequence[int]], text_tokens: int, image_tokens: int) -> None:
        self.image_tokens = image_tokens
        self._words_bt = torch.zeros(len(spans), text_tokens)
        for row, span in zip(self._words_bt, spans, strict=True):
            row[list(span)] = 1
        self.total_bn = torch.zeros(len(spans), image_tokens)
        """(B, N) float32, on the device of the attention that was added."""

    def add(self, query_bshd: Tensor, key_bshd: Tensor) -> None:
        """Of one attention module: rotated joint queries and keys (>= B, T + N, H, D); rows behind B are left out.

        The words' share of the softmax comes out of the fused attention kernel itself: the values are 1 for tokens of
        the words and 0 for others, so that no (N, T) map is ever held.
        """
        batch, text_tokens = self._words_bt.shape
        self._words_bt, self.total_bn = self._words_bt.to(query_bshd.device), self.total_bn.to(query_bshd.device)
        query = query_bshd[:batch, text_tokens:].transpose(1, 2)
        key = key_bshd[:batch, :text_tokens].transpose(1, 2)
        value = key.new_zeros(key.shape)
        value[..., 0] = self._words_bt[:, None].to(key.dtype)
        share_bhnd = F.scaled_dot_product_attention(query, key, value)
        self.total_bn += share_bhnd[..., 0].float().mean(dim=1)

    def masks(self) -> Tensor:
        """(B, N) bool: tokens above Otsu's threshold of their image; none where all tokens look alike."""
        return torch.stack([_above_otsu(row) for row in self.total_bn])


def _above_otsu(values_n: Tensor) -> Tensor:
    low, high = values_n.min(), values_n.max()
    if not high > low:
        return torch.zeros_like(values_n, dtype=torch.bool)
    scaled = ((values_n - low) / (high - low)).double()
    return scaled > otsu_threshold(scaled)


def otsu_threshold(values: Tensor) -> float:
    """The value in [0, 1] that splits `values` in [0, 1] into two groups of largest variance between them.

    N. Otsu, "A threshold selection method from gray-level histograms", 1979, on 256 bins. The middle of the best
    thresholds where several are equally good.
    """
    counts = torch.histc(values.float(), bins=BINS, min=0, max=1).double()
    centres = (torch.arange(BINS, dtype=torch.float64, device=values.device) + 0.5) / BINS
    below = counts.cumsum(0)
    above = below[-1] - below
    mass = (counts * centres).cumsum(0)
    mean_below = mass / below.clamp_min(1)
    mean_above = (mass[-1] - mass) / above.clamp_min(1)
    between = below * above * (mean_below - mean_above).square()
    best = (between >= between.max() * (1 - 1e-12)).nonzero()[:, 0]
    return float((best.double().mean() + 1) / BINS)
