"""Questions about a picture, answered by BLIP: one of some choices by likelihood, or freely."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer, BlipForQuestionAnswering, BlipImageProcessorPil

from models.scorers.loading import load_complete, pixels

MAX_ANSWER_TOKENS = 10
"""Of a free answer: BLIP was trained on the short ones of VQA."""
_ARTICLES = frozenset({"a", "an", "the"})
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


class VisualQuestionAnswerer:
    """BlipForQuestionAnswering with its tokenizer and image processor, from a standard transformers folder."""

    def __init__(self, model: Any, tokenizer: Any, processor: Any) -> None:
        self.model, self.tokenizer, self.processor = model, tokenizer, processor
        config = model.config.text_config
        self.start, self.end = int(config.bos_token_id), int(config.sep_token_id)

    @classmethod
    def from_pretrained(cls, folder: Path, device: str, dtype: torch.dtype) -> Self:
        """OSError if a file is missing, ValueError if weights are."""
        return cls(
            load_complete(BlipForQuestionAnswering, folder, device, dtype),
            AutoTokenizer.from_pretrained(folder, local_files_only=True),
            BlipImageProcessorPil.from_pretrained(folder, local_files_only=True),
        )

    @torch.inference_mode()
    def choose(self, image: np.ndarray, questions: Sequence[str], choices: Sequence[Sequence[str]]) -> list[str]:
        """For each question about a uint8 (H, W, 3) image, the likeliest of its own choices.

        Likelihood of a choice: the sum of its tokens' log-probabilities and that of the end, as BLIP ranks answers.
        Of equally likely ones the first. ValueError for fewer than two choices.
        """
        for question, own in zip(questions, choices, strict=True):
            if len(own) < 2:
                raise ValueError(f"question {question!r} has the choices {list(own)}; needed: at least 2")
        seen = self._see(image)
        result = []
        for question, own in zip(questions, choices, strict=True):
            likely = self._log_likelihood(self._read(seen, question), own)
            result.append(own[int(likely.argmax())])
        return result

    @torch.inference_mode()
    def answer(self, image: np.ndarray, questions: Sequence[str]) -> list[str]:
        """For each question about a uint8 (H, W, 3) image, the likeliest token at a time, as `normalised` writes it."""
        seen = self._see(image)
        return [self._answer(self._read(seen, question)) for question in questions]

    def _answer(self, asked: torch.Tensor) -> str:
        tokens = torch.tensor([[self.start]], device=self.model.device)
        for _ in range(MAX_ANSWER_TOKENS):
            following = self._decode(tokens, asked)[:, -1:].argmax(dim=-1)
            if int(following) == self.end:
                break
            tokens = torch.cat([tokens, following], dim=1)
        return normalised(self.tokenizer.decode(tokens[0, 1:], skip_special_tokens=True))

    def _see(self, image: np.ndarray) -> torch.Tensor:
        """Hidden states (1, P, D) of the image."""
        values = pixels(self.processor, [image]).to(self.model.device, self.model.dtype)
        return self.model.vision_model(pixel_values=values).last_hidden_state

    def _read(self, seen: torch.Tensor, question: str) -> torch.Tensor:
        """Hidden states (1, T, D) of a question that has seen the image.

        One question at a time: transformers' BLIP lets answers attend to the padding of questions read together.
        """
        text = self.tokenizer([question], truncation=True, return_tensors="pt").to(self.model.device)
        return self.model.text_encoder(
            input_ids=text["input_ids"],
            attention_mask=text["attention_mask"],
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=self.model.device),
        ).last_hidden_state

    def _decode(self, tokens_nt: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
        """float32 (N, T, vocabulary): logits of the token after each."""
        asked = asked.expand(len(tokens_nt), -1, -1)
        mask = torch.ones(asked.shape[:2], dtype=torch.long, device=asked.device)
        return self.model.text_decoder(
            input_ids=tokens_nt, encoder_hidden_states=asked, encoder_attention_mask=mask, use_cache=False
        ).logits.float()

    def _log_likelihood(self, asked: torch.Tensor, choices: Sequence[str]) -> torch.Tensor:
        """(C,) of every choice, given the hidden states (1, T, D) of the question."""
        rows = [
            [self.start, *self.tokenizer(choice, add_special_tokens=False)["input_ids"], self.end] for choice in choices
        ]
        longest = max(map(len, rows))
        # The decoder looks back only: what stands after the end of a shorter choice does not reach it.
        tokens = torch.tensor([[*row, *[self.end] * (longest - len(row))] for row in rows], device=asked.device)
        told = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=asked.device)
        logits = self._decode(tokens, asked)
        losses = cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")
        return -(losses * told[:, 1:]).sum(dim=1)


def normalised(text: str) -> str:
    """An answer as answers are compared: lower case, words alone, no articles, numbers up to ten as digits."""
    words = re.findall(r"[\w'-]+", text.lower())
    kept = [str(_NUMBERS.index(word)) if word in _NUMBERS else word for word in words if word not in _ARTICLES]
    return " ".join(kept)
