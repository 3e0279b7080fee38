"""Custom Diffusion (Kumari et al. 2023): keys and values of text cross-attention, and a modifier token's embedding.

The modifier token starts as a copy of a rare word's (section 3.2 of the paper). Here it takes that word's place in the
tokenizer, since the word is in no prompt: a token with an id of its own would be the same but for that id, the highest
of all, where many CLIP text encoders look for the end of a text. Of references as they are: the paper's augmentation
(other sizes, with words for them) needs a loss on part of an image and is left out, as diffusers' --noaug does.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from configs.evaluation import CustomDiffusion
from models.customizer import Customizer


class ModifiedEmbedding(nn.Module):
    """Embeddings of tokens in which one row is a parameter of its own, float32."""

    def __init__(self, base: nn.Embedding, token: int) -> None:
        super().__init__()
        self.base, self.token = base, token
        self.row = nn.Parameter(base.weight[token].detach().float().clone())

    def forward(self, ids: Tensor) -> Tensor:
        """ids (B, T) int64 to embeddings (B, T, C) in the dtype of the base."""
        found = self.base(ids)
        return torch.where((ids == self.token)[..., None], self.row.to(found.dtype), found)


@contextmanager
def open_text_attention(customizer: Customizer, settings: CustomDiffusion) -> Iterator[dict[str, nn.Parameter]]:
    """Inside, the base model's text projections and its modifier token can be trained; yields them, float32, by name.

    Afterwards the model is as before. The token must be one of every tokenizer, the model one with cross-attention.
    """
    places = [
        (encoder, tokenizer(settings.token, add_special_tokens=False).input_ids[0])
        for encoder, tokenizer in zip(customizer.text_encoders, customizer.tokenizers, strict=True)
    ]
    with (
        customizer.without_adapter(),
        _own_weights(customizer.text_attention()) as weights,
        _own_rows(places) as rows,
    ):
        yield weights | rows


@contextmanager
def _own_weights(layers: dict[str, nn.Linear]) -> Iterator[dict[str, nn.Parameter]]:
    """Inside, the layers have float32 copies of their weights."""
    before = {name: layer.weight for name, layer in layers.items()}
    try:
        for layer in layers.values():
            layer.weight = nn.Parameter(layer.weight.detach().float().clone())
        yield {f"{name}.weight": layer.weight for name, layer in layers.items()}
    finally:
        for name, layer in layers.items():
            layer.weight = before[name]


@contextmanager
def _own_rows(places: list[tuple[PreTrainedModel, int]]) -> Iterator[dict[str, nn.Parameter]]:
    """Inside, each text encoder has a row of its own for its token."""
    before = [(encoder, encoder.get_input_embeddings()) for encoder, _ in places]
    try:
        found = {}
        for number, (encoder, token) in enumerate(places):
            modified = ModifiedEmbedding(encoder.get_input_embeddings(), token)
            encoder.set_input_embeddings(modified)
            found[f"text_encoders.{number}.token"] = modified.row
        yield found
    finally:
        for encoder, embedding in before:
            encoder.set_input_embeddings(embedding)
