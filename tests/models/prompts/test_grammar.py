import re

import pytest

from models.miniature.language import vocabulary
from models.miniature.scenes import OTHER_OBJECTS, SCENES, scene_phrase
from models.miniature.world import COLOURS, all_specs, caption
from models.prompts.grammar import GRAMMAR_KINDS, GrammarWriter, spread
from models.prompts.validate import Limits, Order, Written, write_validated
from models.prompts.writer import Ask, Draft

LIMITS = Limits(min_words=4, max_words=60, max_rounds=4)
WRITER = GrammarWriter()
CONTEXTS = [kind for kind in GRAMMAR_KINDS if kind != "appearance"]


def drafts(
    kind: str,
    n: int,
    seed: int = 1,
    object_caption: str = "a striped mug",
    category: str = "mug",
    attributes: dict[str, str] | None = None,
) -> list[Draft]:
    (found,) = WRITER.write([Ask(object_caption, category, kind, n, seed, attributes or {})])
    return found


def texts(kind: str, n: int, seed: int = 1, object_caption: str = "a striped mug", category: str = "mug") -> list[str]:
    return [draft.text for draft in drafts(kind, n, seed, object_caption, category)]


def validated(object_caption: str, category: str, kind: str, n: int, **attributes: str) -> Written:
    (written,) = write_validated(WRITER, [Order("one", object_caption, category, {kind: n}, attributes)], LIMITS, 3)
    return written


def test_scene_captions_are_the_object_in_distinct_scenes() -> None:
    found = texts("scene", len(SCENES))
    assert sorted(found) == sorted(f"a striped mug {scene_phrase(scene)}" for scene in SCENES)
    assert texts("scene", 3) == found[:3] and texts("scene", 99) == found


def test_other_object_captions_name_one_and_vary_it_before_repeating() -> None:
    found = texts("other_object", 5)
    assert {other for other in OTHER_OBJECTS for text in found if f"next to {other} " in text} == set(OTHER_OBJECTS)
    assert len({text.split(other)[1] for text in found for other in OTHER_OBJECTS if other in text}) == 5
    assert len(set(texts("other_object", 50))) == 50


def test_an_object_is_not_put_next_to_its_own_kind() -> None:
    assert not any("next to a red ball" in text for text in texts("other_object", 40, 1, "a yellow ball", "ball"))


def test_captions_differ_with_the_seed_and_not_without() -> None:
    assert texts("scene", 3, seed=1) == texts("scene", 3, seed=1)
    assert len({tuple(texts("scene", 3, seed=seed)) for seed in range(8)}) > 4


def test_property_captions_give_a_colour_that_the_object_does_not_have() -> None:
    found = drafts("property", 8, attributes={"primary": "red", "secondary": "blue"})
    shades = [re.fullmatch(r"an? (\w+) mug .*", draft.text)[1] for draft in found]
    assert sorted(shades) == sorted(set(COLOURS) - {"red", "blue"})
    assert "orange" in shades and any(draft.text.startswith("an orange mug") for draft in found)
    assert all("yellow" not in text for text in texts("property", 9, 1, "a Yellow duck", "duck"))


def test_an_unchanged_object_answers_the_colour_question_wrong() -> None:
    attributes = {"primary": "red", "secondary": "blue"}
    found = drafts("property", 8, attributes=attributes)
    for draft in found + drafts("property", 8, object_caption="a red mug with a blue handle"):
        fact = next(fact for fact in draft.facts if fact["question"] == "what colour is it")
        assert sum(" red mug" in choice for choice in fact["choices"]) == 1 and len(fact["choices"]) == 4
        assert " red mug" not in fact["answer"]


@pytest.mark.parametrize("kind", CONTEXTS)
def test_captions_of_the_miniature_pass_every_check_and_stay_in_its_vocabulary(kind: str) -> None:
    words = set(vocabulary())
    for spec in all_specs(1)[::97]:
        for detail in ("full", "open", "category"):
            n = 6 if kind != "property" else 5
            written = validated(caption(spec, detail), spec.category, kind, n, primary=spec.primary)
            assert (len(written.prompts), written.rejected, written.problem) == (n, (), None)
            assert all(set(prompt.text.split()) <= words for prompt in written.prompts)


@pytest.mark.parametrize(
    ("object_caption", "category"),
    [
        ("a yellow duck", "duck"),
        ("A large metal drum with blue and pink stripes.", "barrel"),
        ("The 3D model of a truck. It has six wheels.", "truck"),
        ("3 cups", ""),
        ("an adorable owl", "owl"),
    ],
)
@pytest.mark.parametrize("kind", CONTEXTS)
def test_captions_from_elsewhere_pass_every_check(object_caption: str, category: str, kind: str) -> None:
    written = validated(object_caption, category, kind, 5)
    assert (len(written.prompts), written.rejected, written.problem) == (5, (), None)
    assert all(". " not in prompt.text and not prompt.text.startswith("The") for prompt in written.prompts)


@pytest.mark.parametrize("kind", CONTEXTS)
def test_facts_hold_the_caption_among_captions_that_differ_in_one_respect(kind: str) -> None:
    for draft in drafts(kind, 6, 2):
        assert len(draft.facts) >= 2
        for fact in draft.facts:
            assert fact["answer"] == draft.text
            assert fact["choices"].count(draft.text) == 1
            assert len(set(fact["choices"])) == len(fact["choices"]) == 4


def test_facts_of_the_open_caption_ask_for_scene_category_and_pattern() -> None:
    (draft,) = drafts("scene", 1, 2)
    by_question = {fact["question"]: fact["choices"] for fact in draft.facts}
    assert set(by_question) == {"where is it", "what is it", "what pattern has it"}
    assert all(choice.startswith("a striped ") for choice in by_question["what is it"])
    assert all(" mug " in choice for choice in by_question["what pattern has it"])


def test_answers_are_not_always_at_the_same_place() -> None:
    places = {
        fact["choices"].index(fact["answer"]) for draft in drafts("scene", 10, 2)
        for fact in draft.facts
    }  # fmt: skip
    assert len(places) > 2


def test_an_object_that_needs_more_captions_than_there_are_fails_by_name() -> None:
    problem = validated("a striped mug", "mug", "scene", 12).problem
    assert re.match(r"10 of 12 scene captions for 'a striped mug' .* duplicate", str(problem))


def test_a_kind_it_has_no_words_for_is_refused_with_the_fix() -> None:
    with pytest.raises(ValueError, match=r"'style': the grammar writes scene, other_object, .* set its count to 0"):
        drafts("style", 1)


def test_the_appearance_is_what_the_world_knows_of_the_object() -> None:
    (told,) = drafts(
        "appearance", 1, object_caption="a mug", attributes={"full_caption": "a red mug with a blue handle"}
    )
    assert told.text == "a red mug with a blue handle"
    assert [draft.text for draft in drafts("appearance", 1, object_caption="a yellow duck")] == ["a yellow duck"]


def test_spread_uses_fresh_values_while_there_are_any_and_then_all_combinations() -> None:
    for seed in range(20):
        pairs = spread([["a", "b", "c"], ["x", "y", "z", "w"]], 12, seed)
        assert len(set(pairs)) == 12
        assert len({first for first, _ in pairs[:3]}) == len({second for _, second in pairs[:3]}) == 3
    assert spread([["a"], []], 3, 5) == []
