import pytest

from models.prompts.naming import mentions, object_names, occurrences


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


def test_object_names_are_category_and_noun_of_the_caption() -> None:
    assert object_names("a large metal drum with stripes", "barrel") == ("barrel", "drum")
    assert object_names("a red mug", "Mug") == ("mug",)
    assert object_names("a red mug", "") == ("mug",)


def test_every_place_is_found_in_characters() -> None:
    text = "A Cat beside a cathedral. The cats, and a bobcat, look at a cat."
    assert [text[start:end] for start, end in occurrences(text, "cat")] == ["Cat", "cats", "cat"]
