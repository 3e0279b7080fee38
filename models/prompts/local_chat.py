"""Chats with any instruct model in a transformers folder: batched, and seeded chat by chat."""

from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Self

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from models.prompts.chat import Answer, Chat, ChatSettings


class LocalChat:
    """Raises ValueError if the tokenizer has no chat template: then the folder holds no instruct model."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        if tokenizer.chat_template is None:
            raise ValueError("its tokenizer has no chat template; use an instruct model")
        self.model, self.tokenizer = model.requires_grad_(False).eval(), tokenizer
        self._reading = Lock()  # padding is state of the tokenizer
        end = model.generation_config.eos_token_id
        ends = end if isinstance(end, list) else [end]
        self._ends = [token for token in ends if token is not None] or [tokenizer.eos_token_id]
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token_id = self._ends[0]
        tokenizer.padding_side = "left"

    @classmethod
    def from_pretrained(cls, folder: Path, device: str = "cpu", dtype: torch.dtype = torch.bfloat16) -> Self:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True).to(device)
        return cls(model, AutoTokenizer.from_pretrained(folder))

    @torch.inference_mode()
    def complete(self, chats: Sequence[Chat], settings: ChatSettings) -> list[Answer]:
        """Answers in the order of the chats, `settings.batch` of them at a time."""
        answers: list[Answer] = []
        for start in range(0, len(chats), settings.batch):
            answers += self._complete(chats[start : start + settings.batch], settings)
        return answers

    def _complete(self, chats: Sequence[Chat], settings: ChatSettings) -> list[Answer]:
        with self._reading:
            inputs = self.tokenizer.apply_chat_template(
                [list(chat.messages) for chat in chats],
                add_generation_prompt=True,
                padding=True,
                return_dict=True,
                return_tensors="pt",
            ).to(self.model.device)
        choose = LogitsProcessorList()
        if settings.temperature > 0:
            choose = LogitsProcessorList(
                [
                    TemperatureLogitsWarper(settings.temperature),
                    TopPLogitsWarper(settings.top_p),
                    SeededChoice([chat.seed for chat in chats]),
                ]
            )
        limits = GenerationConfig(
            max_new_tokens=settings.max_new_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            eos_token_id=self._ends,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        tokens = self.model.generate(**inputs, generation_config=limits, logits_processor=choose)
        made = tokens[:, inputs["input_ids"].shape[1] :]
        ended = torch.isin(made, torch.tensor(self._ends, device=made.device)).any(dim=1).tolist()
        texts = self.tokenizer.batch_decode(made, skip_special_tokens=True)
        return [Answer(text.strip(), None if whole else "truncated") for text, whole in zip(texts, ended, strict=True)]


class SeededChoice(LogitsProcessor):
    """Leaves of every row's scores one token, drawn from their softmax by the row's own generator.

    So a chat's random numbers follow from its seed alone, whatever else is in its batch, which the global generator
    that `do_sample` draws from does not give.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        draws = [torch.rand((), generator=generator, dtype=torch.float64) for generator in self._generators]
        reached = scores.double().softmax(dim=-1).cumsum(dim=-1)
        wanted = torch.stack(draws)[:, None].to(scores.device) * reached[:, -1:]
        token = torch.searchsorted(reached, wanted, right=True).clamp(max=scores.shape[1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(1, token, 0.0)
