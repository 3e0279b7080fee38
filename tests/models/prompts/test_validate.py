from collections.abc import Sequence

import pytest

from models.prompts.validate import (
    Limits,
    Order,
    Written,
    problem,
    sentences,
    write_validated,
)
from models.prompts.writer import Ask, Draft

LIMITS = Limits(min_words=4, max_words=12, max_rounds=3)


class Scripted:
    """Answers each ask with the next list of captions, and notes what it was asked."""

    name = "scripted"

    def __init__(self, *answers: list[str | Draft]) -> None:
        self.answers = list(answers)
        self.rounds: list[list[Ask]] = []

    def write(self, asks: Sequence[Ask]) -> list[list[Draft]]:
        self.rounds.append(list(asks))
        return [[_draft(text) for text in self.answers.pop(0)] for _ in asks]


def _draft(text: str | Draft) -> Draft:
    return text if isinstance(text, Draft) else Draft(text, ({"question": text, "choices": [], "answer": ""},))


def run(writer: Scripted, *orders: Order) -> list[Written]:
    return write_validated(writer, orders, LIMITS, 7)


def mugs(object_id: str = "mug-1", **wanted: int) -> Order:
    return Order(object_id, "a red mug", "mug", wanted)


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
        ("Caption 1: A red mug on a beach.", "chatter"),
        ("Scene #2: a red mug on a beach", "chatter"),
        ("Five short captions of a red mug in different places:", "chatter"),
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
        "a mug in a beach scene at noon",
        "a mug with one word on it: coffee",
    ],
)
def test_words_that_chatter_also_uses_are_no_chatter(text: str) -> None:
    assert problem(text, ["mug"], LIMITS) is None


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


def test_asks_again_for_what_is_missing_with_another_seed() -> None:
    writer = Scripted(["a mug on a beach", "A mug  on a BEACH.", "a cup here and there"], ["1. a mug in a forest"])
    (written,) = run(writer, mugs(scene=2))
    assert [(prompt.text, prompt.kind) for prompt in written.prompts] == [
        ("a mug on a beach", "scene"),
        ("a mug in a forest", "scene"),
    ]
    assert written.problem is None
    assert written.prompts[1].facts[0]["question"] == "1. a mug in a forest"
    assert [(item.text, item.reason) for item in written.rejected] == [
        ("A mug  on a BEACH.", "duplicate"),
        ("a cup here and there", "no_object"),
    ]
    (first,), (second,) = writer.rounds
    assert (first.n, second.n) == (2, 1) and first.seed != second.seed
    assert (first.avoid, second.avoid) == ((), ("a mug on a beach",))


def test_objects_and_kinds_are_asked_for_together_and_only_what_is_missing_again() -> None:
    writer = Scripted(["a mug on a beach"], ["a cup by a book"], ["a mug in a forest"], ["a mug by a book"])
    one, two = run(writer, mugs("mug-1", scene=1, other_object=1), mugs("mug-2", scene=1))
    assert [[(ask.kind, ask.n) for ask in asks] for asks in writer.rounds] == [
        [("scene", 1), ("other_object", 1), ("scene", 1)],
        [("other_object", 1)],
    ]
    assert [prompt.text for prompt in one.prompts] == ["a mug on a beach", "a mug by a book"]
    assert [prompt.text for prompt in two.prompts] == ["a mug in a forest"]


def test_large_orders_are_asked_for_in_parts_with_seeds_of_their_own() -> None:
    places = [f"a mug on hill {number}" for number in range(45)]
    writer = Scripted(places[:20], places[20:40], places[40:])
    (written,) = run(writer, mugs(scene=45))
    (asks,) = writer.rounds
    assert [ask.n for ask in asks] == [20, 20, 5] and len({ask.seed for ask in asks}) == 3
    assert len(written.prompts) == 45
    again = Scripted(places[:20], [], [], [], [], [], [])
    run(again, mugs(scene=45))
    assert [ask.avoid for ask in again.rounds[1]] == [tuple(places[:20])] * 2


def test_an_order_may_say_which_nouns_count() -> None:
    order = Order("bear-1", "a polar bear", "polar bear", {"scene": 1}, names=("polar bear",))
    (written,) = run(Scripted(["A bear on a rock."], ["A polar bear on a rock."]), order)
    assert [item.reason for item in written.rejected] == ["no_object"]
    assert [prompt.text for prompt in written.prompts] == ["A polar bear on a rock."]


def test_seeds_follow_from_object_kind_and_round_alone() -> None:
    alone, among = Scripted(["a mug on a beach"]), Scripted(["a mug on a beach"], ["a mug in a forest"])
    run(alone, mugs("mug-2", scene=1))
    run(among, mugs("mug-1", scene=1), mugs("mug-2", scene=1))
    assert alone.rounds[0][0] == among.rounds[0][1]
    assert among.rounds[0][0].seed != among.rounds[0][1].seed


def test_a_caption_of_another_kind_of_the_same_object_is_a_duplicate_and_of_another_object_is_none() -> None:
    writer = Scripted(["a mug on a beach"], ["A mug on a beach", "a mug in a desert"], ["a mug on a beach"])
    one, two = run(writer, mugs("mug-1", scene=1, other_object=1), mugs("mug-2", scene=1))
    assert [prompt.text for prompt in one.prompts] == ["a mug on a beach", "a mug in a desert"]
    assert [item.reason for item in one.rejected] == ["duplicate"]
    assert (two.problem, two.rejected) == (None, ())


def test_what_the_writer_itself_calls_unusable_is_rejected_for_that() -> None:
    (written,) = run(Scripted([Draft("a mug on a", problem="truncated"), "a mug on a beach"]), mugs(scene=1))
    assert [(item.text, item.reason) for item in written.rejected] == [("a mug on a", "truncated")]
    assert [prompt.text for prompt in written.prompts] == ["a mug on a beach"]


def test_more_than_asked_is_not_taken_and_nothing_wanted_is_not_asked() -> None:
    writer = Scripted(["a mug on a beach", "a mug in a desert"])
    (written,) = run(writer, mugs(scene=1, style=0))
    assert (len(written.prompts), written.rejected) == (1, ())
    assert [ask.kind for ask in writer.rounds[0]] == ["scene"]


def test_gives_up_after_the_limit_and_says_why() -> None:
    writer = Scripted(["a cup on a beach", "a mug on a beach"], ["a mug on a beach"], [])
    (written,) = run(writer, mugs(scene=2))
    assert "1 of 2 scene captions for 'a red mug' passed after 3 rounds of scripted" in str(written.problem)
    assert "rejected: duplicate 1, no_object 1; the last: 'a mug on a beach'" in str(written.problem)
    assert len(writer.rounds) == LIMITS.max_rounds


def test_an_unknown_kind_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'mood'; choose one of scene, other_object, style, appearance, background"):
        Ask("a mug", "mug", "mood", 1, 1)
