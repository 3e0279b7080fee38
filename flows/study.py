"""`syncd study`: the page of a human study from the evaluation of a workspace, and what its answers say."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from data.ids import canonical_json
from data.outside_text import parse_json
from data.shards import load_index, read_all, sha256_file, write_atomic
from models.evaluation.record import EvaluationRecord
from models.evaluation.study import Evaluated, key_of, make_questions, page_of, practice_questions
from models.evaluation.study_analysis import analyse, as_markdown

PAGE, KEY, RESULT = "index.html", "key.json", "result.json"


def make_study(
    workspace: Path, rows: tuple[str, str], out: Path, count: int, references: int, seed: int, title: str
) -> list[Path]:
    """Write the page and its key; ConfigError if the evaluation has not finished or lacks what is asked."""
    folder = workspace / "artifacts" / "evaluate"
    if not (folder / "index.json").exists():
        raise ConfigError(f"{folder}: no evaluation; make one with: syncd run --until evaluate")
    if rows[0] == rows[1]:
        raise ConfigError(f"study: both rows are {rows[0]}; compare two")
    index = load_index(folder)
    objects = [
        Evaluated(EvaluationRecord.model_validate(sample.record), sample.files) for sample in read_all(folder, index)
    ]
    questions = make_questions(objects, rows, count, references, seed)
    practice = practice_questions(objects, references, seed)
    key = key_of(practice, questions, rows, sha256_file(folder / "index.json"))
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / PAGE, page_of(practice, questions, key["study"], title).encode())
    write_atomic(out / KEY, canonical_json(key) + b"\n")
    return [out / PAGE, out / KEY]


def analyse_study(key: Path, answers: Sequence[Path]) -> str:
    """The table as Markdown; the same numbers go to `result.json` beside the key."""
    exports = [_read(path) for path in sorted(answers)]
    result = analyse(_read(key), exports)
    write_atomic(key.parent / RESULT, canonical_json(asdict(result)) + b"\n")
    return as_markdown(result)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: holds {type(found).__name__}; needed: an object, as the page saves it")
    return found
