"""What a human study found: preference with standard error, and which raters do not count and why.

Answers are crossed: every rater answers many questions, every question has many raters, and both vary. The standard
error is therefore clustered both ways (Cameron, Gelbach and Miller 2011): variance over raters, plus over questions,
less that of single answers, which both contain. A single rater leaves the variance over questions.
"""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.evaluation.study import CRITERIA, SIDES

DIGITS = 4


@dataclass(frozen=True)
class Preference:
    share: float
    """Of the answers, 0 to 1, that prefer the first row."""
    standard_error: float | None
    """None for a single question."""
    answers: int


@dataclass(frozen=True)
class StudyResult:
    rows: tuple[str, str]
    preferences: dict[str, Preference]
    """By criterion; empty if no rater counts."""
    raters: tuple[str, ...]
    rejected: tuple[tuple[str, str], ...]
    """(rater, reason)."""


def analyse(key: Mapping[str, Any], exports: Sequence[Mapping[str, Any]]) -> StudyResult:
    """Of the raters who finished and got the practice right, the share that prefers the first of the key's rows."""
    first, second = key["rows"]
    accepted: dict[str, dict[str, Mapping[str, str]]] = {}
    rejected = []
    for number, export in enumerate(exports, start=1):
        rater = export.get("rater")
        named = isinstance(rater, str) and bool(rater.strip())
        name = rater if named else f"export {number}"
        reason = problem_of(key, export) if named else "no name"
        if reason is None and name in accepted:
            reason = "a second export of the same name; the first counts"
        if reason is None:
            accepted[name] = {answer["question"]: answer for answer in export["answers"]}
        else:
            rejected.append((name, reason))
    preferences = {}
    for criterion in CRITERIA if accepted else ():
        votes = {
            (rater, question["id"]): float(question[answers[question["id"]][criterion]] == first)
            for rater, answers in accepted.items()
            for question in key["questions"]
        }
        preferences[criterion] = preference(votes)
    return StudyResult((first, second), preferences, tuple(accepted), tuple(rejected))


def problem_of(key: Mapping[str, Any], export: Mapping[str, Any]) -> str | None:
    """Why an export does not count; None if it does."""
    if export.get("study") != key["study"]:
        return f"answers of another study, {export.get('study')}"
    given = export.get("answers")
    if not isinstance(given, list) or not all(isinstance(answer, dict) for answer in given):
        return "no list of answers"
    answers = {answer.get("question"): answer for answer in given}
    asked = [question["id"] for question in (*key["practice"], *key["questions"])]
    missing = [
        name for name in asked if any(answers.get(name, {}).get(criterion) not in SIDES for criterion in CRITERIA)
    ]
    if missing:
        return f"{len(missing)} of {len(asked)} questions not answered, for example {missing[0]}"
    wrong = [item["criterion"] for item in key["practice"] if answers[item["id"]][item["criterion"]] != item["correct"]]
    if wrong:
        return f"practice answered wrong: {', '.join(wrong)}"
    return None


def preference(votes: Mapping[tuple[str, str], float]) -> Preference:
    """Mean of the votes (0 or 1) by (rater, question), and its two-way clustered standard error."""
    values = np.array(list(votes.values()))
    share = float(values.mean())
    away = {place: vote - share for place, vote in votes.items()}
    by_rater, by_question = (_variance(away, lambda place, of=of: place[of]) for of in (0, 1))
    single = _variance(away, lambda place: place)
    if by_question is None:
        return Preference(round(share, DIGITS), None, len(values))
    if by_rater is None or single is None:
        variance = by_question
    else:
        variance = max(by_rater + by_question - single, by_rater, by_question)
    return Preference(round(share, DIGITS), round(float(np.sqrt(variance)), DIGITS), len(values))


def _variance(away: Mapping[tuple[str, str], float], cluster: Any) -> float | None:
    """Of the mean, deviations summed within clusters first, with G / (G - 1); None for a single cluster."""
    sums: dict[Hashable, float] = defaultdict(float)
    for place, value in away.items():
        sums[cluster(place)] += value
    groups = len(sums)
    if groups < 2:
        return None
    return float(np.square(list(sums.values())).sum()) / len(away) ** 2 * groups / (groups - 1)


def as_markdown(result: StudyResult) -> str:
    """The table, and below it the raters that do not count."""
    first, second = result.rows
    lines = [
        f"# {first} against {second}",
        "",
        f"{len(result.raters)} raters; preference for {first} in %, +- standard error over raters and questions",
        "",
        "| criterion | preferred | answers |",
        "|---|---|---|",
    ]
    for criterion, found in result.preferences.items():
        spread = "" if found.standard_error is None else f" +- {100 * found.standard_error:.2f}"
        lines.append(f"| {criterion} | {100 * found.share:.2f}{spread} | {found.answers} |")
    lines += [
        "",
        f"## rejected: {len(result.rejected)}",
        "",
        *(f"- {name}: {why}" for name, why in result.rejected),
        "",
    ]
    return "\n".join(lines)
