import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from study_objects import ROWS, evaluated

from configs.errors import ConfigError
from models.evaluation.study import key_of, make_questions, page_of, practice_questions

OBJECTS = [evaluated("mug-a", "mug", 0), evaluated("chair-a", "chair", 20), evaluated("mug-b", "mug", 40)]
BY_ID = {item.record.object_id: item for item in OBJECTS}


def test_every_object_and_prompt_is_asked_about_once_with_images_of_one_seed() -> None:
    questions = make_questions(OBJECTS, ROWS, 0, 2, seed=0)
    places = [(item.meaning["object"], item.meaning["prompt"]) for item in questions]
    assert sorted(places) == sorted((name, prompt) for name in BY_ID for prompt in (0, 1))
    for item in questions:
        own, meaning = BY_ID[item.meaning["object"]], item.meaning
        assert {meaning["left"], meaning["right"]} == set(ROWS)
        for picture, row in zip(item.pictures, (meaning["left"], meaning["right"]), strict=True):
            assert picture == own.files[f"{row}.p{meaning['prompt']}.s{meaning['seed']}.png"]
        assert item.prompt == own.record.prompts[meaning["prompt"]].text
        assert item.references == (own.files["ref.0.png"], own.files["ref.1.png"])


def test_sides_and_seeds_are_drawn_evenly_and_fixed_by_the_seed() -> None:
    many = [evaluated(f"mug-{number}", "mug", 0) for number in range(100)]
    questions = make_questions(many, ROWS, 0, 1, seed=3)
    sides = Counter(item.meaning["left"] for item in questions)
    seeds = Counter(item.meaning["seed"] for item in questions)
    assert all(70 <= count <= 130 for count in (*sides.values(), *seeds.values())), "of 200"
    assert make_questions(many, ROWS, 0, 1, seed=3) == questions
    assert make_questions(many, ROWS, 0, 1, seed=4) != questions
    assert make_questions(many, ROWS, 20, 1, seed=3) == questions[:20]


def test_only_images_that_both_rows_have_are_compared() -> None:
    alone = evaluated("cup-a", "cup", 0, rows=("ours-3",))
    assert {item.meaning["object"] for item in make_questions([alone, OBJECTS[0]], ROWS, 0, 1, 0)} == {"mug-a"}
    with pytest.raises(ConfigError, match="no object has images of both ours-3 and base; rows: ours-3"):
        make_questions([alone], ROWS, 0, 1, 0)


def test_the_right_answers_of_practice_follow_from_the_references() -> None:
    found = {item.meaning["criterion"]: item for item in practice_questions(OBJECTS, 3, seed=0)}
    assert set(found) == {"identity", "text", "quality"}
    for criterion, item in found.items():
        right = item.pictures[("left", "right").index(item.meaning["correct"])]
        (wrong,) = set(item.pictures) - {right}
        (own,) = [entry for entry in OBJECTS if right == entry.files["ref.2.png"]]
        assert item.references == (own.files["ref.0.png"], own.files["ref.1.png"]), (
            "not the picture that is asked about"
        )
        assert item.prompt == own.record.caption
        if criterion == "quality":
            with Image.open(io.BytesIO(wrong)) as image:
                assert len({pixel.tobytes() for pixel in np.asarray(image).reshape(-1, 3)}) == 1, "its stripes are gone"
        else:
            (other,) = [entry for entry in OBJECTS if wrong == entry.files["ref.0.png"]]
            assert other.record.category != own.record.category


def test_practice_needs_two_categories() -> None:
    with pytest.raises(ConfigError, match="practice needs objects of two categories"):
        practice_questions([OBJECTS[0], OBJECTS[2]], 3, 0)


def test_the_key_names_exactly_these_questions() -> None:
    practice, questions = practice_questions(OBJECTS, 3, 0), make_questions(OBJECTS, ROWS, 2, 3, 0)
    key = key_of(practice, questions, ROWS, "a" * 64)
    assert key["study"] == key_of(practice, questions, ROWS, "a" * 64)["study"]
    others = [
        key_of(practice, questions[:1], ROWS, "a" * 64),
        key_of(practice, questions, ROWS, "b" * 64),
        key_of(practice, make_questions(OBJECTS, ROWS, 2, 1, 0), ROWS, "a" * 64),
    ]
    assert len({key["study"], *(other["study"] for other in others)}) == 4


def test_the_page_tells_neither_rows_nor_right_answers() -> None:
    practice, questions = practice_questions(OBJECTS, 3, 0), make_questions(OBJECTS, ROWS, 0, 3, 0)
    page = page_of(practice, questions, "study-id", "Which?")
    for told in (*(f'"{row}"' for row in ROWS), "correct", "criterion", "mug-a-p"):
        assert told not in page
    assert page.count("data:image/png;base64,") == len(
        {data for item in (*practice, *questions) for data in (*item.references, *item.pictures)}
    ), "each picture once"
