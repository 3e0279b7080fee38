import random
from collections import Counter

import pytest

from configs.training import Train
from models.training.examples import Example, Reference, draw_example, draw_pair, may_flip

SECTION = Train(drop_text=0.1, drop_image=0.2, drop_both=0.05, max_references=2)


def draws(images: int, section: Train = SECTION, count: int = 4000) -> list[Example]:
    rng = random.Random(0)
    return [draw_example(images, section, rng) for _ in range(count)]


def test_references_are_other_images_without_repetition() -> None:
    for images in (3, 5):
        for example in draws(images, count=300):
            places = [reference.place for reference in example.references]
            assert example.target not in places
            assert len(set(places)) == len(places)
            assert not any(reference.flipped for reference in example.references)


def test_a_set_with_too_few_images_reuses_others_flipped_each_once() -> None:
    section = SECTION.model_copy(update={"max_references": 5})
    counts = Counter()
    for example in draws(3, section):
        counts[len(example.references)] += 1
        assert len(set(example.references)) == len(example.references)
        assert example.target not in [reference.place for reference in example.references]
        flipped = [reference for reference in example.references if reference.flipped]
        assert len(flipped) == max(0, len(example.references) - 2), "flipped only when no other image is left"
    assert set(counts) == {1, 2, 3, 4}, "two others and their mirror images are all there is"


@pytest.mark.parametrize("most", [1, 2, 3])
def test_the_number_of_references_is_uniform_up_to_the_most(most: int) -> None:
    section = SECTION.model_copy(update={"max_references": most})
    counts = Counter(len(example.references) for example in draws(5, section))
    assert set(counts) == set(range(1, most + 1))
    assert all(abs(count / 4000 - 1 / most) < 0.03 for count in counts.values())


def test_every_image_is_target_and_reference_equally_often() -> None:
    examples = draws(3)
    targets = Counter(example.target for example in examples)
    references = Counter(example.references[0].place for example in examples)
    assert all(abs(targets[place] / 4000 - 1 / 3) < 0.03 for place in range(3))
    assert all(abs(references[place] / 4000 - 1 / 3) < 0.03 for place in range(3))


def test_an_only_image_is_its_own_reference_flipped() -> None:
    for example in draws(1, count=50):
        assert example.references == (Reference(example.target, flipped=True),)


def test_conditions_are_dropped_as_often_as_asked_and_exclude_each_other() -> None:
    counts = Counter((example.drop_text, example.drop_references) for example in draws(3, count=20000))
    expected = {(True, True): 0.05, (True, False): 0.1, (False, True): 0.2, (False, False): 0.65}
    for kind, share in expected.items():
        assert abs(counts[kind] / 20000 - share) < 0.012


@pytest.mark.parametrize(
    ("section", "kind"),
    [
        (Train(drop_text=1, drop_image=0, drop_both=0), (True, False)),
        (Train(drop_text=0, drop_image=1, drop_both=0), (False, True)),
        (Train(drop_text=0, drop_image=0, drop_both=1), (True, True)),
        (Train(drop_text=0, drop_image=0, drop_both=0), (False, False)),
    ],
)
def test_shares_of_one_and_zero_mean_always_and_never(section: Train, kind: tuple[bool, bool]) -> None:
    assert {(example.drop_text, example.drop_references) for example in draws(3, section, 200)} == {kind}


def test_shares_that_exceed_one_together_are_refused() -> None:
    with pytest.raises(ValueError, match=r"drop_both is 1\.2; allowed: at most 1"):
        Train(drop_text=0.4, drop_image=0.4, drop_both=0.4)


def test_a_reference_is_one_of_the_crops_of_its_image_each_as_likely() -> None:
    section = SECTION.model_copy(update={"reference_crops": 4})
    counts = Counter(reference.crop for example in draws(3, section) for reference in example.references)
    assert set(counts) == set(range(4))
    assert all(abs(count / counts.total() - 0.25) < 0.02 for count in counts.values())
    assert {reference.crop for example in draws(3) for reference in example.references} == {None}


def test_a_pair_has_no_references_and_drops_its_text_as_often_as_a_set_does() -> None:
    rng = random.Random(0)
    examples = [draw_pair(SECTION, rng) for _ in range(20000)]
    assert {(example.target, example.references) for example in examples} == {(0, ())}
    assert abs(sum(example.drop_text for example in examples) / 20000 - 0.15) < 0.01


@pytest.mark.parametrize("images", [1, 2, 3, 4])
@pytest.mark.parametrize("most", [1, 2, 3])
def test_flips_are_drawn_where_they_may_be_and_nowhere_else(images: int, most: int) -> None:
    section = SECTION.model_copy(update={"max_references": most})
    drawn = any(own.flipped for example in draws(images, section, 500) for own in example.references)
    assert drawn == may_flip(images, section)
