import pytest

from models.tuning.prompts import class_noun, class_prompt, instance_prompt, tuned_prompt


@pytest.mark.parametrize(
    ("prompt", "noun", "wanted"),
    [
        ("a mug on a beach", "mug", "a sks mug on a beach"),
        ("an apple on a table", "apple", "a sks apple on a table"),
        ("An umbrella in the rain", "umbrella", "A sks umbrella in the rain"),
        ("a red mug", "mug", "a red sks mug"),
        ("a mug next to another mug", "mug", "a sks mug next to another mug"),
        ("a mug-shaped pool with a mug in it", "mug", "a mug-shaped pool with a sks mug in it"),
        ("a smug man and a mug", "mug", "a smug man and a sks mug"),
        ("a teddy bear's picnic", "teddy bear", "a sks teddy bear's picnic"),
        ("Photo of a Mug", "mug", "Photo of a sks Mug"),
        ("the mug is blue", "mug", "the sks mug is blue"),
        ("a wet c++ book", "c++ book", "a wet sks c++ book"),
    ],
)
def test_the_identifier_comes_before_the_first_mention_of_the_noun(prompt: str, noun: str, wanted: str) -> None:
    assert tuned_prompt(prompt, noun, "sks") == wanted


def test_the_article_is_that_of_the_identifier() -> None:
    assert tuned_prompt("a mug on a beach", "mug", "ohwx") == "an ohwx mug on a beach"
    assert instance_prompt("a {token} {noun}", "ohwx", "mug") == "an ohwx mug"


def test_captions_of_references_and_class_images() -> None:
    assert instance_prompt("photo of a {token} {noun}", "ktn", "apple") == "photo of a ktn apple"
    assert class_prompt("photo of a {token} {noun}", "apple") == "photo of an apple"
    assert class_prompt("a {token} {noun}", "mug") == "a mug"


@pytest.mark.parametrize("prompt", ["a cup on a beach", "mugs on a beach", "a smug man", ""])
def test_a_prompt_without_the_noun_is_refused_by_name(prompt: str) -> None:
    with pytest.raises(ValueError, match=r"the prompt '.*' does not name the object by its noun 'mug'") as error:
        tuned_prompt(prompt, "mug", "sks")
    assert repr(prompt) in str(error.value)


@pytest.mark.parametrize(
    ("category", "caption", "prompts", "wanted"),
    [
        ("mug", "a striped mug", ["a striped mug on a beach", "a blue mug"], "mug"),
        ("coffee_mug", "a red mug", ["a coffee mug on a beach"], "coffee mug"),
        ("coffee_mug", "a red mug with a handle", ["a red mug with a handle at night"], "red mug with a handle"),
        ("stuffed animal", "stuffed animal", ["a stuffed animal in the snow"], "stuffed animal"),
        ("tabby cat", "tabby cat", ["a tabby cat", "the cat sleeps"], "cat"),
        ("", "a large metal drum with blue stripes", ["a drum in a forest"], "drum"),
    ],
)
def test_the_noun_is_what_all_prompts_call_the_object(
    category: str, caption: str, prompts: list[str], wanted: str
) -> None:
    assert class_noun(category, caption, prompts) == wanted


def test_prompts_that_share_no_noun_are_refused_at_the_first_that_lacks_it() -> None:
    with pytest.raises(ValueError, match=r"the prompt 'a cup' does not name the object by its noun 'mug'"):
        class_noun("mug", "a red mug", ["a mug", "a cup"])
    with pytest.raises(ValueError, match="no noun to tune for"):
        class_noun("", "", ["a mug"])
