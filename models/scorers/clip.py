"""CLIP: image and text embeddings, and multiple-choice facts answered from them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

from models.scorers.loading import in_batches, load_complete, pixels

BATCH = 64


class ClipScorer:
    """A CLIPModel with its tokenizer and image processor, from a standard transformers folder."""

    def __init__(self, model: CLIPModel, tokenizer: Any, processor: Any) -> None:
        self.model, self.tokenizer, self.processor = model, tokenizer, processor
        config: Any = model.config.text_config
        self.text_length: int = config.max_position_embeddings

    @classmethod
    def from_pretrained(cls, folder: Path, device: str, dtype: torch.dtype) -> Self:
        """OSError if a file is missing, ValueError if weights are."""
        return cls(
            load_complete(CLIPModel, folder, device, dtype),
            AutoTokenizer.from_pretrained(folder, local_files_only=True),
            CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True),
        )

    @torch.inference_mode()
    def embed_images(self, images: Sequence[np.ndarray], batch: int = BATCH) -> np.ndarray:
        """L2-normed float32 (N, D) of uint8 (H, W, 3) images: the whole image, as the folder's processor crops it."""

        def run(part: Sequence[np.ndarray]) -> torch.Tensor:
            values = pixels(self.processor, part).to(self.model.device, self.model.dtype)
            return unit(self.model.get_image_features(pixel_values=values).pooler_output)

        return in_batches(run, images, batch)

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str], batch: int = BATCH) -> np.ndarray:
        """L2-normed float32 (N, D).

        Every text is padded to the model's full length, so that its embedding does not depend on its neighbours, and
        cut there (77 tokens for the published models), as CLIPScore does.
        """

        def run(part: Sequence[str]) -> torch.Tensor:
            tokens = self.tokenizer(
                list(part),
                padding="max_length",
                truncation=True,
                max_length=self.text_length,
                return_tensors="pt",
            ).to(self.model.device)
            ids, mask = tokens["input_ids"], tokens["attention_mask"]
            return unit(self.model.get_text_features(input_ids=ids, attention_mask=mask).pooler_output)

        return in_batches(run, texts, batch)

    def answer_facts(self, image: np.ndarray, facts: Sequence[dict[str, Any]]) -> float:
        """Share, 0 to 1, of the facts whose right choice is the one most similar to the image.

        A fact is {"question", "choices": full texts, "answer": one of the choices}. Raises ValueError for no facts,
        and for an answer that is not among its choices.
        """
        if not facts:
            raise ValueError("no facts to answer: the prompt carries none")
        for fact in facts:
            if fact["answer"] not in fact["choices"]:
                raise ValueError(f"fact {fact['question']!r}: answer {fact['answer']!r} is not in {fact['choices']}")
        choices = sorted({choice for fact in facts for choice in fact["choices"]})
        similarity = self.embed_texts(choices) @ self.embed_images([image])[0]
        score = dict(zip(choices, similarity.tolist(), strict=True))
        right = [max(fact["choices"], key=score.__getitem__) == fact["answer"] for fact in facts]
        return sum(right) / len(right)


def unit(features_nd: torch.Tensor) -> torch.Tensor:
    """Rows scaled to length 1 in float32."""
    return torch.nn.functional.normalize(features_nd.float(), dim=-1)
