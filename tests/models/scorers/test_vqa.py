"""Answers about pictures are the likeliest ones of the bare model, whatever else is asked beside them."""

import numpy as np
import pytest
import tiny_models
import torch
from transformers import BlipForQuestionAnswering

from models.scorers.vqa import VisualQuestionAnswerer, normalised

QUESTIONS = ["a red mug", "snow on the beach next to the blue chair"]
CHOICES = [["red", "blue", "green ball on the beach"], ["mug", "a chair next to a ball", "snow"]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.set_num_threads(1)
    return tiny_models.vqa_folder(tmp_path_factory.mktemp("models") / "vqa")


@pytest.fixture(scope="module")
def vqa(folder):
    return VisualQuestionAnswerer.from_pretrained(folder, "cpu", torch.float32)


@pytest.fixture(scope="module")
def bare(folder):
    return BlipForQuestionAnswering.from_pretrained(folder).eval()


def pictures(count):
    return list(np.random.default_rng(0).integers(0, 256, (count, 40, 40, 3), dtype=np.uint8))


def inputs_of(vqa, image, question):
    text = vqa.tokenizer([question], return_tensors="pt")
    seen = vqa.processor(images=[image], input_data_format="channels_last", return_tensors="pt")
    named = {name: text[name] for name in ("input_ids", "attention_mask")}
    return {**named, "pixel_values": seen["pixel_values"]}


def likelihood(vqa, image, question, choices):
    with torch.no_grad():
        return vqa._log_likelihood(vqa._read(vqa._see(image), question), choices)


def test_the_likelihood_of_a_choice_is_the_training_loss_of_the_bare_model(vqa, bare):
    image = pictures(1)[0]
    for question, choices in zip(QUESTIONS, CHOICES, strict=True):
        found = likelihood(vqa, image, question, choices)
        for choice, value in zip(choices, found, strict=True):
            answer = torch.tensor([[vqa.start, *vqa.tokenizer(choice, add_special_tokens=False)["input_ids"], vqa.end]])
            with torch.no_grad():
                loss = bare(**inputs_of(vqa, image, question), labels=answer).loss
            assert float(value) == pytest.approx(-float(loss) * (answer.shape[1] - 1), abs=1e-4)


def test_the_likeliest_choice_of_each_question_is_taken(vqa):
    image = pictures(1)[0]
    expected = [
        own[int(likelihood(vqa, image, question, own).argmax())]
        for question, own in zip(QUESTIONS, CHOICES, strict=True)
    ]
    assert vqa.choose(image, QUESTIONS, CHOICES) == expected
    assert vqa.choose(image, QUESTIONS[1:], CHOICES[1:]) == expected[1:]
    assert vqa.choose(image, QUESTIONS, [list(reversed(own)) for own in CHOICES]) == expected


def test_free_answers_are_those_that_the_bare_model_generates(vqa, bare):
    answers = set()
    for image in pictures(3):
        for question, answer in zip(QUESTIONS, vqa.answer(image, QUESTIONS), strict=True):
            tokens = bare.generate(**inputs_of(vqa, image, question), max_new_tokens=10, do_sample=False, num_beams=1)
            assert answer == normalised(vqa.tokenizer.decode(tokens[0], skip_special_tokens=True))
            answers.add(answer)
    assert any(answers), "an empty answer to everything would agree by chance"


def test_a_single_choice_is_no_question(vqa):
    with pytest.raises(ValueError, match=r"question 'what\?' has the choices \['red'\]; needed: at least 2"):
        vqa.choose(pictures(1)[0], ["what?"], [["red"]])


def test_nothing_asked_is_nothing_answered(vqa):
    assert vqa.choose(pictures(1)[0], [], []) == vqa.answer(pictures(1)[0], []) == []


@pytest.mark.parametrize(
    ("said", "plain"),
    [("The  Red mug.", "red mug"), ("two", "2"), ("T-shirt", "t-shirt"), ("a", ""), ("It's ten!", "it's 10")],
)
def test_answers_are_compared_without_articles_case_and_punctuation(said, plain):
    assert normalised(said) == plain
