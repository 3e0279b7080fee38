"""What every language model takes and gives: chats in, answers out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

Message = dict[str, str]
"""{"role": "user", "content": text}."""


class ChatError(Exception):
    """A language model that cannot answer; `transient` says whether the same request may succeed later."""

    def __init__(self, message: str, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


@dataclass(frozen=True)
class Chat:
    messages: tuple[Message, ...]
    seed: int
    """In [0, 2**31), the range that every server takes."""


@dataclass(frozen=True)
class Answer:
    text: str
    problem: str | None = None
    """truncated: it ends at the limit of tokens; refused: there is none, and `text` is what was said instead."""


@dataclass(frozen=True)
class ChatSettings:
    temperature: float = 0.6
    """0: always the likeliest token."""
    top_p: float = 0.9
    max_new_tokens: int = 2048
    batch: int = 16
    """Chats that a local model answers together."""


class ChatModel(Protocol):
    def complete(self, chats: Sequence[Chat], settings: ChatSettings) -> list[Answer]:
        """One answer per chat, in their order. Raises ChatError."""
        ...
