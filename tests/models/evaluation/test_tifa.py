import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.errors import ConfigError
from models.evaluation.tifa import problem_of, read_questions, tifa_score
from models.scorers.vqa import VisualQuestionAnswerer

IMAGE = np.zeros((4, 4, 3), dtype=np.uint8)
RED = {"question": "what colour?", "choices": ["red", "blue"], "answer": "red"}
MUG = {"question": "is it a mug?", "choices": ["yes", "no"], "answer": "yes"}
FREE = {"question": "what is it?", "choices": [], "answer": "The mug"}


class Knowing(VisualQuestionAnswerer):
    """Sees what it is told: the answers by question."""

    def __init__(self, seen: dict[str, str]) -> None:
        self.seen = seen

    def choose(self, image: np.ndarray, questions: Sequence[str], choices: Sequence[Sequence[str]]) -> list[str]:
        return [self.seen[question] for question in questions]

    def answer(self, image: np.ndarray, questions: Sequence[str]) -> list[str]:
        return [self.seen[question] for question in questions]


def test_the_score_is_the_share_of_right_answers_closed_and_free() -> None:
    vqa = Knowing({"what colour?": "blue", "is it a mug?": "yes", "what is it?": "mug"})
    assert tifa_score(vqa, IMAGE, [RED, MUG, FREE]) == pytest.approx(2 / 3)
    assert tifa_score(vqa, IMAGE, [RED]) == 0
    assert tifa_score(vqa, IMAGE, [FREE]) == 1


def test_questions_of_another_caption_score_lower() -> None:
    vqa = Knowing({"what colour?": "red", "is it a mug?": "yes"})
    shuffled = [{**RED, "answer": "blue"}, {**MUG, "answer": "no"}]
    assert (tifa_score(vqa, IMAGE, [RED, MUG]), tifa_score(vqa, IMAGE, shuffled)) == (1, 0)


def test_no_questions_are_an_error() -> None:
    with pytest.raises(ValueError, match="no questions to answer"):
        tifa_score(Knowing({}), IMAGE, [])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"question": " "}, "no_question"),
        ({"answer": "the"}, "no_answer"),
        ({"choices": "red"}, "no_choices"),
        ({"choices": ["red", 3]}, "no_choices"),
        ({"choices": ["red"]}, "single_choice"),
        ({"choices": ["red", "The Red"]}, "repeated_choice"),
        ({"answer": "green"}, "answer_not_among_choices"),
        ({"choices": []}, None),
    ],
)
def test_what_is_wrong_with_a_question(change: dict[str, Any], reason: str | None) -> None:
    assert problem_of({**RED, **change}) == reason


def test_questions_are_read_by_caption_and_further_keys_left_out(tmp_path: Path) -> None:
    path = tmp_path / "questions.json"
    entries = [{"caption": "a red mug", "element_type": "color", **RED}, {"caption": "a mug", **MUG}]
    path.write_text(json.dumps([*entries, {"caption": "a red mug", **FREE}]))
    assert read_questions(path) == {"a red mug": [RED, FREE], "a mug": [MUG]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("{}", "holds dict; needed: a list"),
        (json.dumps([RED]), "entry 0 has no caption"),
        (json.dumps([{"caption": "a", **RED, "answer": "x"}]), "entry 0, about 'a': answer_not_among_choices"),
        (json.dumps([{"caption": "a", **RED}] * 2), "entry 1, about 'a': repeated_question"),
    ],
)
def test_a_file_that_cannot_be_used_names_the_entry(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "questions.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_questions(path)
