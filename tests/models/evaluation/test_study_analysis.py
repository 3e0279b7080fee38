from typing import Any

import numpy as np
import pytest

from models.evaluation.study import CRITERIA
from models.evaluation.study_analysis import analyse, as_markdown, preference

KEY = {
    "study": "abc",
    "rows": ["ours", "base"],
    "practice": [
        {"id": "practice-identity", "criterion": "identity", "correct": "left"},
        {"id": "practice-text", "criterion": "text", "correct": "right"},
    ],
    "questions": [{"id": "q1", "left": "ours", "right": "base"}, {"id": "q2", "left": "base", "right": "ours"}],
}


def export(rater: str, q1: str, q2: str, **more: Any) -> dict[str, Any]:
    def answer(question: str, side: str) -> dict[str, str]:
        return {"question": question, **dict.fromkeys(CRITERIA, side)}

    practice = [answer("practice-identity", "left"), answer("practice-text", "right")]
    return {"study": "abc", "rater": rater, "answers": [*practice, answer("q1", q1), answer("q2", q2)], **more}


def test_preference_is_of_the_row_whatever_side_it_was_on() -> None:
    result = analyse(KEY, [export("a", "left", "right"), export("b", "left", "left")])
    assert result.raters == ("a", "b") and result.rejected == ()
    for criterion in CRITERIA:
        assert (result.preferences[criterion].share, result.preferences[criterion].answers) == (0.75, 4)


def test_criteria_are_counted_apart() -> None:
    given = export("a", "left", "right")
    given["answers"][2]["quality"] = "right"
    result = analyse(KEY, [given])
    assert {name: found.share for name, found in result.preferences.items()} == {
        "identity": 1.0,
        "text": 1.0,
        "quality": 0.5,
        "overall": 1.0,
    }


def spoilt(change: Any) -> dict[str, Any]:
    given = export("a", "left", "right")
    change(given)
    return given


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (spoilt(lambda e: e["answers"][0].update(identity="right")), "practice answered wrong: identity"),
        (spoilt(lambda e: e["answers"][1].update(text="left")), "practice answered wrong: text"),
        (spoilt(lambda e: e["answers"].pop()), "1 of 4 questions not answered, for example q2"),
        (spoilt(lambda e: e["answers"][2].update(text="middle")), "1 of 4 questions not answered, for example q1"),
        (spoilt(lambda e: e.update(study="xyz")), "answers of another study, xyz"),
        (spoilt(lambda e: e.update(answers="all")), "no list of answers"),
    ],
)
def test_raters_that_do_not_count_are_listed_with_the_reason(given: dict[str, Any], reason: str) -> None:
    result = analyse(KEY, [export("b", "left", "left"), given])
    assert result.raters == ("b",)
    assert result.rejected == (("a", reason),)
    assert f"- a: {reason}" in as_markdown(result)


def test_the_practice_counts_by_the_criterion_that_it_is_about() -> None:
    given = export("a", "left", "right")
    given["answers"][0].update(text="right", quality="right", overall="right")
    assert analyse(KEY, [given]).raters == ("a",)


def test_a_rater_counts_once_and_needs_a_name() -> None:
    result = analyse(KEY, [export("a", "left", "right"), export("a", "right", "left"), export("", "left", "left")])
    assert result.preferences["overall"].share == 1.0
    assert result.rejected == (("a", "a second export of the same name; the first counts"), ("export 3", "no name"))


def test_without_raters_there_is_no_preference() -> None:
    result = analyse(KEY, [])
    assert result.preferences == {}
    assert "0 raters" in as_markdown(result)


def test_the_standard_error_is_that_of_simulated_studies() -> None:
    """Raters and questions of different leaning: the spread of the mean over studies is what the error says."""
    rng = np.random.default_rng(0)
    means, errors = [], []
    for _ in range(300):
        leaning = 0.5 + rng.normal(0, 0.12, (12, 1)) + rng.normal(0, 0.12, (1, 20))
        drawn = rng.random((12, 20)) < leaning
        votes = {(str(i), str(j)): float(drawn[i, j]) for i in range(12) for j in range(20)}
        found = preference(votes)
        means.append(found.share)
        errors.append(found.standard_error)
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.15)
    naive = np.sqrt(0.25 / 240)
    assert np.mean(errors) > 1.2 * naive, "answers of a rater are not independent"


def test_a_single_rater_leaves_the_spread_of_questions() -> None:
    votes = {("a", str(number)): float(number < 3) for number in range(4)}
    assert preference(votes).standard_error == pytest.approx(np.std([1, 1, 1, 0], ddof=1) / 2, abs=1e-4)
    assert preference({("a", "0"): 1.0}).standard_error is None
