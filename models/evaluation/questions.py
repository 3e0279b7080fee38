"""TIFA's questions, written by a language model: what a picture of a prompt must show, one thing at a time.

A question counts if it is well-formed and the model, shown the prompt and the choices in alphabetical order, gives the
same answer: TIFA checks its questions so with a second model, which answers from the text.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from data.ids import seed_for
from data.outside_text import parse_json
from models.evaluation.tifa import KEYS, Question, problem_of
from models.prompts.chat import Chat, ChatModel, ChatSettings
from models.scorers.vqa import normalised

ROUNDS = 3
"""How often a prompt with too few questions is asked about."""
FEWEST = 2
SETTINGS = ChatSettings(temperature=0.0, top_p=1.0, max_new_tokens=1024)
ROLE = (
    "You check pictures against their captions. You answer with one JSON object a line and with nothing before or "
    "after the lines."
)
_TASK = """Caption: {prompt}

Write one question for every thing that a picture must show to fit the caption: each object, its colour, material and
shape, what it does, what it wears, where it is and what is around it. Ask about one thing at a time, and only about
what the caption says. Half of the questions have the choices "yes" and "no"; the others have four short choices of one
kind, of which exactly one fits the caption.

One line of the answer, as an example for the caption "a red mug on a table":
{{"question": "what colour is the mug?", "choices": ["red", "blue", "green", "white"], "answer": "red"}}"""
_MORE = "\n\nDo not ask any of these again:\n{asked}"
_CONFIRM = """Caption: {prompt}

Question about a picture of it: {question}
Choices: {choices}

Answer with one of the choices, word for word, and with nothing else."""


@dataclass
class Written:
    """Questions of one prompt, and what was not taken: (text, reason code)."""

    questions: list[Question] = field(default_factory=list)
    rejected: list[tuple[str, str]] = field(default_factory=list)

    @property
    def enough(self) -> bool:
        return len(self.questions) >= FEWEST


def write_questions(chat: ChatModel, prompts: Sequence[str], seed: int) -> dict[str, Written]:
    """Questions of every prompt; one with fewer than FEWEST after ROUNDS is not `enough`. Raises ChatError.

    What a prompt gets depends on the prompt and `seed` alone, not on the prompts beside it.
    """
    written = {prompt: Written() for prompt in prompts}
    for number in range(ROUNDS):
        missing = [prompt for prompt, own in written.items() if not own.enough]
        if not missing:
            break
        asked = [_chat(_task(prompt, written[prompt]), seed, f"write/{number}/{prompt}") for prompt in missing]
        drafts: list[tuple[str, Question]] = []
        for prompt, answer in zip(missing, chat.complete(asked, SETTINGS), strict=True):
            own = written[prompt]
            if answer.problem is not None:
                own.rejected.append((answer.text, answer.problem))
            drafts += [(prompt, question) for question in _parse(answer.text, own)]
        _confirm(chat, drafts, written, seed, number)
    return written


def _task(prompt: str, own: Written) -> str:
    known = [question["question"] for question in own.questions]
    return _TASK.format(prompt=prompt) + (_MORE.format(asked="\n".join(known)) if known else "")


def _parse(text: str, own: Written) -> list[Question]:
    """The usable questions of an answer; lines that are none go to `own.rejected` with their reason."""
    found: list[Question] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        entry: Any
        try:
            entry = parse_json(line.rstrip(","))
        except ValueError:
            entry = None
        known = {question["question"] for question in (*own.questions, *found)}
        if not isinstance(entry, dict):
            reason: str | None = "not_json"
        elif entry.get("question") in known:
            reason = "repeated_question"
        else:
            reason = problem_of(entry) or ("no_choices" if not entry["choices"] else None)
        if reason is None:
            found.append({key: entry[key] for key in KEYS})
        else:
            own.rejected.append((line, reason))
    return found


def _confirm(
    chat: ChatModel, drafts: Sequence[tuple[str, Question]], written: dict[str, Written], seed: int, number: int
) -> None:
    if not drafts:
        return
    asked = [
        _chat(
            _CONFIRM.format(
                prompt=prompt, question=question["question"], choices=", ".join(sorted(question["choices"]))
            ),
            seed,
            f"confirm/{number}/{prompt}/{question['question']}",
        )
        for prompt, question in drafts
    ]
    for (prompt, question), answer in zip(drafts, chat.complete(asked, SETTINGS), strict=True):
        if normalised(answer.text) == normalised(question["answer"]):
            written[prompt].questions.append(question)
        else:
            written[prompt].rejected.append((question["question"], "not_confirmed"))


def _chat(text: str, seed: int, name: str) -> Chat:
    return Chat(({"role": "user", "content": f"{ROLE}\n\n{text}"},), seed_for(seed, "tifa", name) % 2**31)
