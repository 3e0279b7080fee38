import pytest

from models.prompts.cleaning import EMOTIVE_WORDS, clean, remove_adjectives


@pytest.mark.parametrize(
    "text",
    [
        "a chicken next to a chickpea bowl",
        "3 cups on a table",
        "a 1.5 litre bottle on a beach",
        "a modernist chair in a forest",
        "a mug, 12 cm tall, on the moon",
        "a cup-and-saucer on a beach",
    ],
)
def test_whole_words_and_numbers_survive(text: str) -> None:
    assert clean(text) == text


def test_a_word_inside_another_is_not_removed() -> None:
    assert remove_adjectives("a chicken next to a chickpea bowl", {"chic"}) == "a chicken next to a chickpea bowl"
    assert remove_adjectives("a modernist house", {"modern"}) == "a modernist house"
    assert remove_adjectives("a well-worn boot", {"worn"}) == "a well-worn boot"


@pytest.mark.parametrize(
    ("given", "cleaned"),
    [
        ("a beautiful mug on a beach", "a mug on a beach"),
        ("1.A mug on a beach", "A mug on a beach"),
        ("1.5 litres of tea in a mug", "1.5 litres of tea in a mug"),
        ('3)"a mug on a beach"', "a mug on a beach"),
        ("A Chic owl in a garden", "An owl in a garden"),
        ("an adorable, truly stunning owl", "an owl"),
        ("a beautiful and old house", "an old house"),
        ("a lovely unicorn", "a unicorn"),
        ("a mug in an enchanting forest", "a mug in a forest"),
        ("the view behind a mug is serene", "the view behind a mug is serene"),
        ("the light is beautiful behind a red mug", "the light is beautiful behind a red mug"),
        ("a tea cosy on a beach", "a tea cosy on a beach"),
    ],
)
def test_emotive_adjectives_go_and_the_article_follows(given: str, cleaned: str) -> None:
    assert clean(given) == cleaned


@pytest.mark.parametrize(
    ("given", "cleaned"),
    [
        ("12. a mug on a beach", "a mug on a beach"),
        ("3) 3 cups on a beach", "3 cups on a beach"),
        ("- a mug  on\ta beach ", "a mug on a beach"),
        ("\u201ca mug on a beach\u201d", "a mug on a beach"),
        ("**a mug** on a `beach`", "a mug on a beach"),
        ("a mug on the dog's bed", "a mug on the dog's bed"),
        ("", ""),
    ],
)
def test_list_markers_quotes_markup_and_blanks(given: str, cleaned: str) -> None:
    assert clean(given) == cleaned


def test_cleaning_twice_changes_nothing_more() -> None:
    for word in EMOTIVE_WORDS:
        once = clean(f"1. a very {word}, {word} old mug")
        assert once == clean(once) == "an old mug"
