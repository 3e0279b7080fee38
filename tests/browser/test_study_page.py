"""The study page in headless Chromium: from the name to the saved answers, and nothing of what it shows is run."""

import json

import pytest
from study_objects import ROWS, evaluated

from data.ids import canonical_json
from flows.study import analyse_study
from models.evaluation.study import CRITERIA, key_of, make_questions, page_of, practice_questions

pytestmark = pytest.mark.browser
PATIENCE_MS = 600_000
"""A busy machine may hold a browser up for long; what never happens still ends the test."""
ATTACK = "</script><script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\"> & "


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A page file and its key; the prompts and the title hold markup."""
    folder = tmp_path_factory.mktemp("study")
    objects = [evaluated("mug-a", "mug", 0, text=ATTACK), evaluated("chair-a", "chair", 20)]
    practice, questions = practice_questions(objects, 2, 0), make_questions(objects, ROWS, 3, 2, 0)
    key = key_of(practice, questions, ROWS, "0" * 64)
    (folder / "index.html").write_text(page_of(practice, questions, key["study"], f"Which? {ATTACK}"))
    (folder / "key.json").write_bytes(canonical_json(key))
    return folder / "index.html", key, [item.prompt for item in (*practice, *questions)]


@pytest.fixture(params=[1280, 420], ids=["desktop", "phone"])
def opened(request, browser, study):
    page = browser.new_page(viewport={"width": request.param, "height": 900})
    page.set_default_timeout(PATIENCE_MS)
    seen = {"console": [], "errors": [], "requests": []}
    page.on("console", lambda message: seen["console"].append(message.text))
    page.on("pageerror", lambda error: seen["errors"].append(str(error)))
    page.on("request", lambda asked: seen["requests"].append(asked.url))
    page.goto(study[0].as_uri())
    yield page, seen
    page.close()


def answer(page, sides):
    for criterion, side in sides.items():
        page.locator(f"input[name={criterion}][value={side}]").check()


def sides_of(key, place, wrong=False):
    """What a rater who prefers the first row, and knows the practice, chooses."""
    if place < len(key["practice"]):
        side = key["practice"][place]["correct"]
        side = {"left": "right", "right": "left"}[side] if wrong else side
    else:
        side = "left" if key["questions"][place - len(key["practice"])]["left"] == ROWS[0] else "right"
    return dict.fromkeys(CRITERIA, side)


def go_through(page, key, rater, wrong=False):
    page.locator("#rater").fill(rater)
    page.locator("#begin").click()
    for place in range(len(key["practice"]) + len(key["questions"])):
        answer(page, sides_of(key, place, wrong))
        page.locator("#next").click()
    with page.expect_download() as saved:
        page.locator("#save").click()
    return saved.value


def test_answers_are_saved_and_give_the_preference_that_they_say(opened, study, tmp_path):
    page, seen = opened
    path, key, _ = study
    saved = go_through(page, key, "Ann (1)")
    assert saved.suggested_filename == "answers-Ann_1_.json"
    saved.save_as(tmp_path / "ann.json")
    export = json.loads((tmp_path / "ann.json").read_text())
    assert (export["study"], export["rater"]) == (key["study"], "Ann (1)")
    assert json.loads(page.locator("#answers").input_value()) == export
    (tmp_path / "key.json").write_bytes(canonical_json(key))
    said = analyse_study(tmp_path / "key.json", [tmp_path / "ann.json"])
    assert "| overall | 100.00 +- 0.00 | 3 |" in said and "rejected: 0" in said
    asked = [url for url in seen["requests"] if not url.startswith(("data:", "blob:"))]
    assert asked == [path.as_uri()] and seen["console"] == seen["errors"] == []


def test_a_rater_who_gets_the_practice_wrong_is_rejected(opened, study, tmp_path):
    page, _ = opened
    go_through(page, study[1], "Bob", wrong=True).save_as(tmp_path / "bob.json")
    (tmp_path / "key.json").write_bytes(canonical_json(study[1]))
    said = analyse_study(tmp_path / "key.json", [tmp_path / "bob.json"])
    assert "0 raters" in said and "- Bob: practice answered wrong: identity, text, quality" in said


def test_nothing_goes_on_before_everything_is_answered(opened, study):
    page, _ = opened
    assert page.locator("#begin").is_disabled()
    page.locator("#rater").fill("  ")
    assert page.locator("#begin").is_disabled()
    page.locator("#rater").fill("Ann")
    page.locator("#begin").click()
    assert page.locator("#progress").inner_text() == "Practice 1 of 3"
    sides = list(sides_of(study[1], 0).items())
    answer(page, dict(sides[:-1]))
    assert page.locator("#next").is_disabled()
    answer(page, dict(sides))
    assert page.locator("#next").is_enabled()
    page.locator("#next").click()
    assert page.locator("input:checked").count() == 0, "the next question begins empty"


def test_text_is_shown_as_it_is_and_pictures_are_drawn(opened, study):
    page, _ = opened
    _, key, prompts = study
    page.locator("#rater").fill("Ann")
    page.locator("#begin").click()
    for place, prompt in enumerate(prompts):
        assert page.locator("#prompt").text_content() == prompt
        sizes = page.evaluate("() => [...document.images].map(i => [i.complete, i.naturalWidth, i.clientWidth])")
        assert len(sizes) == 2 + 2 and all(whole and wide == 16 and shown > 50 for whole, wide, shown in sizes)
        assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
        answer(page, sides_of(key, place))
        page.locator("#next").click()
    assert any(ATTACK in prompt for prompt in prompts)
    assert page.title() == f"Which? {ATTACK}".strip()
