"""TIFA (Hu et al. 2023): the share of questions about a prompt that a model answers right from the picture.

A question is {"question", "choices", "answer"}, the form of a prompt's facts; without choices the answer is free and
compared as `vqa.normalised` writes it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import ConfigError
from data.outside_text import parse_json
from models.scorers.vqa import VisualQuestionAnswerer, normalised

Question = dict[str, Any]
KEYS = ("question", "choices", "answer")


def tifa_score(vqa: VisualQuestionAnswerer, image: np.ndarray, questions: Sequence[Question]) -> float:
    """Share, 0 to 1, of the questions answered right about a uint8 (H, W, 3) image; ValueError for no questions."""
    if not questions:
        raise ValueError("no questions to answer: the prompt carries none")
    closed = [question for question in questions if question["choices"]]
    free = [question for question in questions if not question["choices"]]
    chosen = vqa.choose(image, [item["question"] for item in closed], [item["choices"] for item in closed])
    said = vqa.answer(image, [item["question"] for item in free])
    right = sum(answer == item["answer"] for answer, item in zip(chosen, closed, strict=True))
    right += sum(answer == normalised(item["answer"]) for answer, item in zip(said, free, strict=True))
    return right / len(questions)


def problem_of(entry: Mapping[str, Any]) -> str | None:
    """Why an entry cannot be used as a question, as a reason code; None if it can."""
    question, choices, answer = (entry.get(key) for key in KEYS)
    if not isinstance(question, str) or not question.strip():
        return "no_question"
    if not isinstance(answer, str) or not normalised(answer):
        return "no_answer"
    if not isinstance(choices, list) or not all(isinstance(choice, str) and choice.strip() for choice in choices):
        return "no_choices"
    if len(choices) == 1:
        return "single_choice"
    if len({normalised(choice) for choice in choices}) < len(choices):
        return "repeated_choice"
    if choices and answer not in choices:
        return "answer_not_among_choices"
    return None


def read_questions(path: Path) -> dict[str, list[Question]]:
    """Prompt -> its questions, from a JSON list of {"caption", "question", "choices", "answer"}.

    Further keys, which TIFA's published files have, are left out. ConfigError names the entry that cannot be used.
    """
    try:
        entries = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"evaluate.questions is {path}, which cannot be read: {error}") from error
    if not isinstance(entries, list):
        raise ConfigError(f"{path}: holds {type(entries).__name__}; needed: a list of objects with caption, {KEYS}")
    found: dict[str, list[Question]] = {}
    for place, entry in enumerate(entries):
        caption = entry.get("caption") if isinstance(entry, dict) else None
        if not isinstance(caption, str) or not caption.strip():
            raise ConfigError(f"{path}: entry {place} has no caption; write the prompt that it asks about")
        reason = problem_of(entry)
        own = found.setdefault(caption, [])
        if reason is None and any(entry["question"] == other["question"] for other in own):
            reason = "repeated_question"
        if reason is not None:
            raise ConfigError(f"{path}: entry {place}, about {caption!r}: {reason}; correct it or take it out")
        own.append({key: entry[key] for key in KEYS})
    return found
