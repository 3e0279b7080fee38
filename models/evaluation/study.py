"""Pairwise human study (thesis section 5.4, appendix C.1.4): its questions, and the page that asks them.

A question shows references, the prompt, and an image of each of two rows, left or right at random. Three practice
questions come first whose answers are known whatever the models can do, because they are made of references alone:
the object against another one, the caption against another object, a picture against a spoilt one. The page knows
neither which row an image is of nor which practice answer is right: that is in the key.
"""

import base64
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from configs.errors import ConfigError
from data.ids import canonical_json, digest_of, seed_for
from models.evaluation.record import EvaluationRecord

CRITERIA = {
    "identity": "Which image shows the same object as the references?",
    "text": "Which image fits the text better?",
    "quality": "Which image looks better and more like a photograph?",
    "overall": "Which image do you prefer overall, all three together?",
}
"""Thesis Table 5.2: image alignment, text alignment, photo-realism, overall."""
SIDES = ("left", "right")
PLAIN_SIDE = 256
"""Pixels above which pictures go into the page as JPEG: hundreds of PNGs of 512 pixels do not fit one file."""
SPOILT_SIDE = 8
"""Cells a side that a picture is spoilt to in practice."""


@dataclass(frozen=True)
class Evaluated:
    """One object of an evaluation: its record and the PNG files beside it."""

    record: EvaluationRecord
    files: dict[str, bytes]

    def references(self, count: int) -> list[bytes]:
        return [self.files[f"ref.{place}.png"] for place in range(min(count, self.record.references))]


@dataclass(frozen=True)
class Question:
    """`pictures`: what is shown left and right; `meaning`: what that is, for the key."""

    id: str
    prompt: str
    references: tuple[bytes, ...]
    pictures: tuple[bytes, bytes]
    meaning: dict[str, Any]


def make_questions(
    objects: Sequence[Evaluated], rows: tuple[str, str], count: int, references: int, seed: int
) -> list[Question]:
    """`count` questions (0: all), one seed's images for each object and prompt that both rows have, in random order.

    ConfigError if no object has images of both rows.
    """
    shots: dict[tuple[str, int], list[int]] = {}
    by_id = {item.record.object_id: item for item in objects}
    for item in objects:
        seen = {row: {(image.prompt, image.seed) for image in item.record.images if image.row == row} for row in rows}
        for prompt, number in sorted(seen[rows[0]] & seen[rows[1]]):
            shots.setdefault((item.record.object_id, prompt), []).append(number)
    if not shots:
        known = sorted({image.row for item in objects for image in item.record.images})
        raise ConfigError(f"study: no object has images of both {rows[0]} and {rows[1]}; rows: {', '.join(known)}")
    rng = np.random.default_rng(seed_for(seed, "study", "/".join(rows)))
    drawn = [sorted(shots)[place] for place in rng.permutation(len(shots))][: count or None]
    questions = []
    for number, (name, prompt) in enumerate(drawn, start=1):
        item, chosen = by_id[name], shots[name, prompt][rng.integers(len(shots[name, prompt]))]
        order = rows if rng.integers(2) else rows[::-1]
        pictures = [item.files[f"{row}.p{prompt}.s{chosen}.png"] for row in order]
        meaning = {"object": name, "prompt": prompt, "seed": chosen, "left": order[0], "right": order[1]}
        text = item.record.prompts[prompt].text
        asked = tuple(item.references(references))
        questions.append(Question(f"q{number}", text, asked, (pictures[0], pictures[1]), meaning))
    return questions


def practice_questions(objects: Sequence[Evaluated], references: int, seed: int) -> list[Question]:
    """One for each criterion but the overall one; ConfigError for fewer than two categories or references."""
    rng = np.random.default_rng(seed_for(seed, "study", "practice"))
    pairs = [
        (one, other)
        for one in objects
        for other in objects
        if one.record.category != other.record.category and one.record.references > 1
    ]
    if not pairs:
        raise ConfigError(
            "study: practice needs objects of two categories, one of them with two references; evaluate more objects"
        )
    found = []
    for criterion in ("identity", "text", "quality"):
        one, other = pairs[rng.integers(len(pairs))]
        own = one.references(one.record.references)
        right, wrong = own[-1], other.references(1)[0]
        if criterion == "quality":
            wrong = _spoilt(right)
        correct = SIDES[rng.integers(2)]
        pictures = (right, wrong) if correct == "left" else (wrong, right)
        meaning = {"criterion": criterion, "correct": correct}
        shown = tuple(own[:-1][:references])
        found.append(Question(f"practice-{criterion}", one.record.caption, shown, pictures, meaning))
    return found


def _spoilt(png: bytes) -> bytes:
    with Image.open(io.BytesIO(png)) as image:
        coarse = image.convert("RGB").resize((SPOILT_SIDE, SPOILT_SIDE), Image.Resampling.BOX)
        out = io.BytesIO()
        coarse.resize(image.size, Image.Resampling.NEAREST).save(out, format="PNG")
    return out.getvalue()


def key_of(
    practice: Sequence[Question], questions: Sequence[Question], rows: tuple[str, str], source: str
) -> dict[str, Any]:
    """What the page does not say. `source`: sha256 of the evaluation's index; `study` names exactly these questions."""
    content = {
        "rows": list(rows),
        "evaluation": source,
        "practice": [{"id": item.id, **item.meaning} for item in practice],
        "questions": [{"id": item.id, **item.meaning} for item in questions],
    }
    shown = [[item.prompt, *map(_digest, (*item.references, *item.pictures))] for item in (*practice, *questions)]
    return {"study": digest_of([content, shown])[:16], **content}


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def page_of(practice: Sequence[Question], questions: Sequence[Question], study: str, title: str) -> str:
    """One HTML file that needs nothing else, and asks for nothing."""
    pictures: dict[str, str] = {}
    asked = []
    for item in (*practice, *questions):
        places = []
        for data in (*item.references, *item.pictures):
            places.append(_digest(data)[:16])
            pictures.setdefault(places[-1], _data_uri(data))
        asked.append({"id": item.id, "prompt": item.prompt, "references": places[:-2], "pictures": places[-2:]})
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    data = {
        "study": study,
        "practice": len(practice),
        "questions": asked,
        "criteria": [[name, text] for name, text in CRITERIA.items()],
        "pictures": pictures,
    }
    return environment.get_template("study.html.j2").render(
        title=title, practice=len(practice), data=canonical_json(data).decode()
    )


def _data_uri(png: bytes) -> str:
    with Image.open(io.BytesIO(png)) as image:
        if max(image.size) > PLAIN_SIDE:
            out = io.BytesIO()
            image.convert("RGB").save(out, format="JPEG", quality=92)
            return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
