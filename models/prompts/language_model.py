"""The writer that asks a language model, and reads the captions out of its answer."""

import re
from collections.abc import Sequence

from models.prompts.chat import Answer, Chat, ChatModel, ChatSettings
from models.prompts.instructions import conversation
from models.prompts.writer import Ask, Draft

_REASONING = re.compile(r"\A.*</think>|<think>.*\Z", re.DOTALL)
"""What a model thinks aloud; the opening mark may stand in its prompt already."""


class LanguageModelWriter:
    """Drafts by any `ChatModel`: one chat per ask, all of a call together. It knows no facts of its captions."""

    def __init__(self, name: str, chat: ChatModel, settings: ChatSettings, max_words: int) -> None:
        self.name, self.chat, self.settings, self.max_words = name, chat, settings, max_words

    def write(self, asks: Sequence[Ask]) -> list[list[Draft]]:
        """Raises ChatError if the model cannot be reached or answers to nothing."""
        chats = [Chat(conversation(ask, self.max_words), ask.seed % 2**31) for ask in asks]
        return [drafts_of(answer) for answer in self.chat.complete(chats, self.settings)]

    def with_appearance(self, text: str, object_caption: str, appearance: str) -> str:
        """The context, then the looks, as sentences of their own."""
        return f"{text.rstrip('.')}. {appearance}"


def drafts_of(answer: Answer) -> list[Draft]:
    """Every line of an answer as a draft, without what a model thinks aloud before it.

    Lines that are no captions (greetings, headings) are drafts as well: the checks reject them by name. Of an answer
    that was cut off the last line is marked, since nothing says that it is whole.
    """
    if answer.problem == "refused":
        return [Draft(answer.text, problem="refused")]
    lines = [line.strip() for line in _REASONING.sub("", answer.text).splitlines()]
    drafts = [Draft(line) for line in lines if line]
    if answer.problem == "truncated" and drafts:
        drafts[-1] = Draft(drafts[-1].text, problem="truncated")
    return drafts
