from collections.abc import Mapping
from typing import Any

import pytest

from models.prompts.validate import (
    Limits,
    PromptError,
    mentions,
    object_names,
    problem,
    sentences,
    write_validated,
)
from models.prompts.writer import Draft

LIMITS = Limits(min_words=4, max_words=12, max_rounds=3)


class Scripted:
    """Answers each request with the next list of captions, and notes what it was asked."""

    name = "scripted"

    def __init__(self, *rounds: list[str]) -> None:
        self.rounds = list(rounds)
        self.asked: list[tuple[int, int]] = []

    def write(
        self, object_caption: str, category: str, kind: str, n: int, seed: int, attributes: Mapping[str, Any]
    ) -> list[Draft]:
        self.asked.append((n, seed))
        return [Draft(text, ({"question": text, "choices": [], "answer": ""},)) for text in self.rounds.pop(0)]


def run(writer: Scripted, n: int, **changes: Any) -> Any:
    return write_validated(writer, "a red mug", "mug", "scene", n, 7, **({"limits": LIMITS} | changes))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a red mug on a beach", None),
        ("Two mugs on a wooden table.", None),
        ("3 mugs on a beach", None),
        ("A mug stands on a table. Rain falls behind it.", None),
        ("", "empty"),
        ("...", "empty"),
        ("a cup on a beach", "no_object"),
        ("a muggy day on a beach", "no_object"),
        ("a smug on a beach", "no_object"),
        ("a red mug", "too_short"),
        ("a red mug on a beach with a lot of other things around it", "too_long"),
        ("A mug. On a beach. In rain.", "sentences"),
        ("Look! A mug on a beach! Nice!", "sentences"),
        ("Let me know if you need any further assistance with the mug!", "chatter"),
        ("Sure, here are captions of a mug:", "chatter"),
        ("Here are 10 background captions for the mug", "chatter"),
        ("Note: a mug on a beach", "chatter"),
        ("I hope these mug captions help", "chatter"),
    ],
)
def test_every_defect_has_its_reason(text: str, reason: str | None) -> None:
    assert problem(text, ["mug"], LIMITS) == reason


@pytest.mark.parametrize(
    "text",
    [
        "a mug sure to fall off a table",
        "a mug on a music note poster",
        "a mug under a sign with captions",
        "a mug at point I of a map",
    ],
)
def test_words_that_chatter_also_uses_are_no_chatter(text: str) -> None:
    assert problem(text, ["mug"], LIMITS) is None


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("A Teddy  bear sits", "teddy bear", True),
        ("two teddy-bears", "teddy bear", True),
        ("a bear with a teddy", "teddy bear", False),
        ("three boxes", "box", True),
        ("cherries in a bowl", "cherry", True),
        ("a shoe", "shoes", True),
        ("knives on a board", "knife", True),
        ("a glasses case", "glasses", True),
        ("a boxer", "box", False),
        ("a bus", "bu", True),
    ],
)
def test_names_are_found_as_whole_words_in_singular_and_plural(text: str, name: str, expected: bool) -> None:
    assert mentions(text, name) is expected


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("a mug on a beach", 1),
        ("A mug. A table.", 2),
        ("A 1.5 litre bottle, approx. 3 cm from the edge.", 1),
        ("Wow! a mug", 2),
        ('He says "a mug." Then he leaves', 2),
        ("", 0),
    ],
)
def test_sentences(text: str, count: int) -> None:
    assert sentences(text) == count


def test_object_names_are_category_and_noun_of_the_caption() -> None:
    assert object_names("a large metal drum with stripes", "barrel") == ("barrel", "drum")
    assert object_names("a red mug", "Mug") == ("mug",)
    assert object_names("a red mug", "") == ("mug",)


def test_asks_again_for_what_is_missing_with_another_seed() -> None:
    writer = Scripted(["a mug on a beach", "A mug  on a BEACH.", "a cup here and there"], ["1. a mug in a forest"])
    accepted, rejected = run(writer, 2)
    assert [prompt.text for prompt in accepted] == ["a mug on a beach", "a mug in a forest"]
    assert [prompt.kind for prompt in accepted] == ["scene", "scene"]
    assert accepted[1].facts[0]["question"] == "1. a mug in a forest"
    assert [(item.text, item.reason) for item in rejected] == [
        ("A mug  on a BEACH.", "duplicate"),
        ("a cup here and there", "no_object"),
    ]
    assert [n for n, _ in writer.asked] == [2, 1]
    assert writer.asked[0][1] != writer.asked[1][1]


def test_the_same_call_asks_with_the_same_seeds() -> None:
    first, second = Scripted([], ["a mug on a beach"]), Scripted([], ["a mug on a beach"])
    run(first, 1)
    run(second, 1)
    assert first.asked == second.asked


def test_captions_taken_by_another_kind_are_duplicates() -> None:
    accepted, rejected = run(Scripted(["a mug on a beach", "a mug in a desert"]), 1, taken=["A mug on a beach"])
    assert [prompt.text for prompt in accepted] == ["a mug in a desert"]
    assert [item.reason for item in rejected] == ["duplicate"]


def test_more_than_asked_is_not_taken() -> None:
    accepted, rejected = run(Scripted(["a mug on a beach", "a mug in a desert"]), 1)
    assert (len(accepted), rejected) == (1, [])


def test_gives_up_after_the_limit_and_says_why() -> None:
    writer = Scripted(["a cup on a beach", "a mug on a beach"], ["a mug on a beach"], [])
    with pytest.raises(
        PromptError, match=r"1 of 2 scene captions for 'a red mug' .* duplicate 1, no_object 1"
    ) as caught:
        run(writer, 2)
    assert caught.value.reason == "too_few_prompts"
    assert len(writer.asked) == LIMITS.max_rounds


def test_none_wanted_asks_nobody() -> None:
    writer = Scripted()
    assert run(writer, 0) == ([], []) and writer.asked == []
