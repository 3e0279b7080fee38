import json
from collections.abc import Callable, Sequence
from typing import Any

from models.evaluation.questions import ROUNDS, write_questions
from models.prompts.chat import Answer, Chat, ChatSettings

RED = {"question": "what colour is the mug?", "choices": ["red", "blue"], "answer": "red"}
MUG = {"question": "is there a mug?", "choices": ["yes", "no"], "answer": "yes"}
SNOW = {"question": "is there snow?", "choices": ["yes", "no"], "answer": "yes"}


class Scripted:
    """Writes what `write` says for a prompt and round; agrees with every question but those in `doubts`."""

    def __init__(self, write: Callable[[str, int], Answer], doubts: Sequence[str] = ()) -> None:
        self.write, self.doubts = write, doubts
        self.asked: list[str] = []
        self.seeds: dict[str, int] = {}
        self.rounds: dict[str, int] = {}

    def complete(self, chats: Sequence[Chat], settings: ChatSettings) -> list[Answer]:
        assert settings.temperature == 0
        return [self._answer(chat) for chat in chats]

    def _answer(self, chat: Chat) -> Answer:
        text = chat.messages[-1]["content"].partition("\n\n")[2]
        self.asked.append(text)
        self.seeds[text] = chat.seed
        prompt = text.splitlines()[0].removeprefix("Caption: ")
        if "Choices:" in text:
            question = next(item for item in (RED, MUG, SNOW) if item["question"] in text)
            return Answer("nothing of it" if question["question"] in self.doubts else f"{question['answer'].upper()}.")
        number = self.rounds.get(prompt, 0)
        self.rounds[prompt] = number + 1
        return self.write(prompt, number)


def lines(*questions: dict[str, Any]) -> Answer:
    return Answer("\n".join(json.dumps(question) for question in questions))


def test_questions_are_taken_as_they_are_written() -> None:
    chat = Scripted(lambda prompt, number: lines(RED, MUG))
    written = write_questions(chat, ["a red mug"], 0)
    assert written["a red mug"].questions == [RED, MUG]
    assert written["a red mug"].rejected == [] and written["a red mug"].enough
    assert len(chat.asked) == 3, "one request for questions, one to confirm each"


def test_what_cannot_be_used_is_kept_with_its_reason_and_asked_for_again() -> None:
    bad = {**RED, "answer": "green"}

    def write(prompt: str, number: int) -> Answer:
        if number:
            return lines(RED, SNOW)
        return Answer("Here you are:\n" + "\n".join(map(json.dumps, (bad, RED, RED, {**MUG, "choices": []}))))

    chat = Scripted(write)
    (written,) = write_questions(chat, ["a red mug in snow"], 0).values()
    assert written.questions == [RED, SNOW]
    reasons = [reason for _, reason in written.rejected]
    assert reasons == ["not_json", "answer_not_among_choices", "repeated_question", "no_choices", "repeated_question"]
    again = next(text for text in chat.asked if "again:" in text)
    assert RED["question"] in again


def test_a_question_that_the_caption_does_not_answer_alike_is_rejected() -> None:
    chat = Scripted(lambda prompt, number: lines(RED, MUG, SNOW), doubts=[SNOW["question"]])
    (written,) = write_questions(chat, ["a red mug"], 0).values()
    assert written.questions == [RED, MUG]
    assert written.rejected == [(SNOW["question"], "not_confirmed")]


def test_a_prompt_without_enough_questions_is_given_up_after_some_rounds() -> None:
    def write(prompt: str, number: int) -> Answer:
        return lines(RED, MUG) if prompt == "a red mug" else Answer("I cannot", "refused")

    chat = Scripted(write)
    written = write_questions(chat, ["a red mug", "a thing"], 0)
    assert written["a red mug"].enough and not written["a thing"].enough
    assert chat.rounds == {"a red mug": 1, "a thing": ROUNDS}
    assert ("I cannot", "refused") in written["a thing"].rejected


def test_requests_of_a_prompt_do_not_depend_on_the_prompts_beside_it() -> None:
    alone, beside = (Scripted(lambda prompt, number: lines(RED, MUG)) for _ in range(2))
    write_questions(alone, ["a red mug"], 5)
    write_questions(beside, ["a blue mug", "a red mug"], 5)
    assert alone.seeds.items() <= beside.seeds.items()
