import re

import pytest

from models.prompts.chat import Answer, Chat, ChatSettings
from models.prompts.instructions import conversation
from models.prompts.language_model import LanguageModelWriter, drafts_of
from models.prompts.validate import Limits, Order, problem, write_validated
from models.prompts.writer import KINDS, Ask

SETTINGS = ChatSettings(temperature=0.5, max_new_tokens=99)


class Echo:
    """Answers with the captions it is given, and keeps what it was asked."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.chats: list[Chat] = []

    def complete(self, chats: list[Chat], settings: ChatSettings) -> list[Answer]:
        assert settings == SETTINGS
        self.chats += chats
        return [self.answers.pop(0) for _ in chats]


def ask(kind: str, n: int = 3, **changes: object) -> Ask:
    return Ask(
        **({"object_caption": "a red mug.", "category": "mug", "kind": kind, "n": n, "seed": 2**40 + 5} | changes)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_instruction_names_the_object_the_number_and_the_limit(kind: str) -> None:
    (user,) = conversation(ask(kind, attributes={"kind": "tin mug"}), 40)
    assert user["role"] == "user", "chat templates without a system message refuse one"
    assert "Write 3 captions" in user["content"] and "40 words at most" in user["content"]
    assert ("tin mug" if kind == "appearance" else "a red mug") in user["content"]
    assert "Name the mug in every caption." in user["content"]
    assert "Do not repeat" not in user["content"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_examples_of_the_instruction_pass_the_checks_themselves(kind: str) -> None:
    (user,) = conversation(ask(kind), 60)
    limits = Limits(min_words=4, max_words=60, max_rounds=1)
    examples = re.findall(r'Two examples for "(?:an? )?([^"]+)":\n1\. (.*)\n2\. (.*)', user["content"])
    assert len(examples) == 2
    for name, *captions in examples:
        for caption in captions:
            assert problem(caption, [name.split()[-1]], limits) is None, caption


def test_what_is_there_already_is_listed() -> None:
    (user,) = conversation(ask("scene", 1, avoid=("a red mug on a beach",)), 40)
    assert "Write one caption " in user["content"] and "\n  - a red mug on a beach" in user["content"]


def test_answers_are_read_line_by_line_without_what_was_thought_aloud() -> None:
    answer = Answer("<think>a mug\nhm</think>\n\n1. A mug on a beach.\n\n2. A mug in rain.")
    assert [draft.text for draft in drafts_of(answer)] == ["1. A mug on a beach.", "2. A mug in rain."]
    assert drafts_of(Answer("<think>never comes to an end")) == []
    (draft,) = drafts_of(Answer("The user wants mugs.\n</think>\nA mug in snow."))  # opened in the prompt
    assert draft.text == "A mug in snow."


def test_of_a_truncated_answer_the_last_line_cannot_be_trusted() -> None:
    drafts = drafts_of(Answer("1. A mug on a beach.\n2. A mug in a", "truncated"))
    assert [(draft.text, draft.problem) for draft in drafts] == [
        ("1. A mug on a beach.", None),
        ("2. A mug in a", "truncated"),
    ]


def test_a_chatty_answer_gives_its_captions_and_the_rest_is_rejected_by_name() -> None:
    model = Echo(
        Answer(
            "Sure! Here are 2 captions for the mug:\n\n**In different scenes**\n1. A red mug on a beach.\n"
            '2. "A stunning red mug in a forest."\n\nLet me know if you need any further assistance with the mug!'
        )
    )
    writer = LanguageModelWriter("model@1", model, SETTINGS, 40)
    limits = Limits(min_words=4, max_words=40, max_rounds=1)
    (written,) = write_validated(writer, [Order("mug-1", "a red mug", "mug", {"scene": 2})], limits, 7)
    assert [prompt.text for prompt in written.prompts] == ["A red mug on a beach.", "A red mug in a forest."]
    assert [item.reason for item in written.rejected] == ["chatter", "no_object", "chatter"]
    assert 0 <= model.chats[0].seed < 2**31


def test_a_refusal_is_a_reason_and_asked_again() -> None:
    model = Echo(Answer("I cannot help with that.", "refused"), Answer("1. A red mug on a beach."))
    writer = LanguageModelWriter("model@1", model, SETTINGS, 40)
    limits = Limits(min_words=4, max_words=40, max_rounds=2)
    (written,) = write_validated(writer, [Order("mug-1", "a red mug", "mug", {"scene": 1})], limits, 7)
    assert [item.reason for item in written.rejected] == ["refused"] and written.problem is None
    assert model.chats[0].seed != model.chats[1].seed
