"""Vocabulary and facts: every caption can be spelled, every question has exactly one right answer."""

import pytest

from models.miniature.language import facts, vocabulary
from models.miniature.scenes import OTHER_OBJECTS, SCENES, full_caption
from models.miniature.world import DETAILS, all_specs, caption, parse_id, sample_specs


def test_vocabulary_spells_every_caption_and_question():
    words = set(vocabulary())
    seen = {"blurry", "low", "resolution"}
    for number, spec in enumerate(all_specs(1)):
        scene = SCENES[number % len(SCENES)]
        other = OTHER_OBJECTS[number % len(OTHER_OBJECTS)]
        for detail in DETAILS:
            seen |= set(full_caption(caption(spec, detail), scene, other).split())
        for fact in facts(spec, scene, other):
            seen |= set(" ".join([fact["question"], *fact["choices"]]).split())
    assert seen == words


def test_facts_offer_four_distinct_choices_with_one_right():
    for number, spec in enumerate(sample_specs(120, seed=3)):
        scene = SCENES[number % len(SCENES)]
        asked = facts(spec, scene, "a red ball")
        assert [fact["kind"] for fact in asked] == ["category", "colour", "pattern", "scene", "other"]
        for fact in asked:
            assert len(set(fact["choices"])) == 4
            assert fact["choices"].count(fact["answer"]) == 1
        assert spec.secondary not in asked[1]["choices"]


def test_answers_state_the_spec():
    answers = {f["kind"]: f["answer"] for f in facts(parse_id("mug-red-blue-dotted-03"), "moon")}
    assert answers == {"category": "a mug", "colour": "red", "pattern": "dotted", "scene": "on the moon"}


def test_right_answer_has_no_favoured_place():
    places = [f["choices"].index(f["answer"]) for s in sample_specs(100, 0) for f in facts(s, "beach")]
    counts = [places.count(place) for place in range(4)]
    assert min(counts) > 60


def test_unknown_scene_is_refused():
    with pytest.raises(ValueError, match="volcano"):
        facts(parse_id("mug-red-blue-dotted-03"), "volcano")
