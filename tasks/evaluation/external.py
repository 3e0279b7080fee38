"""Rows of images that were made elsewhere, for the same objects, prompts and seeds.

A folder holds `OBJECT/pPROMPT.sSEED.png` (or .jpg, .jpeg, .webp), PROMPT being the place of the prompt in the object's
list, from 0; or beside images of any name a `manifest.csv` with the columns object, prompt, seed, file, or a
`manifest.json` with a list of such objects, where prompt is the text and file is relative to the folder.
"""

import csv
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import ConfigError
from data.benchmarks.base import IMAGES, inside
from data.outside_text import parse_json
from data.pictures import read_picture
from data.shards import ShardWriter
from data.stage import StageContext
from tasks.evaluation.scoring import Shot
from tasks.evaluation.subjects import Subject

CSV, JSON = "manifest.csv", "manifest.json"
COLUMNS = ("object", "prompt", "seed", "file")
Manifest = Mapping[tuple[str, str, int], Path]
"""(object, text of the prompt, seed) -> file."""


def external_images(
    ctx: StageContext, shots: Sequence[Shot], out: ShardWriter
) -> tuple[list[Shot], dict[str, list[np.ndarray]]]:
    """The shots of the subjects that every external row has whole, and row -> their images uint8 (H, W, 3).

    A subject that lacks an image in a row is recorded as failed: rows are compared on the same images or not at all.
    """
    rows = {name: ctx.workspace / folder for name, folder in sorted(ctx.recipe.evaluate.external.items())}
    images: dict[tuple[str, int], np.ndarray] = {}
    lost: dict[Subject, str] = {}
    for place, shot in enumerate(shots):
        for row, folder in rows.items():
            if shot.subject in lost:
                break
            try:
                images[row, place] = np.asarray(read_picture(_find(folder, shot)).convert("RGB"))
            except (FileNotFoundError, ValueError) as error:
                lost[shot.subject] = f"row {row}: {error}"
    for subject, detail in lost.items():
        out.fail(subject.id, "external_missing", detail)
    kept = [place for place, shot in enumerate(shots) if shot.subject not in lost]
    return [shots[place] for place in kept], {row: [images[row, place] for place in kept] for row in rows}


def _find(folder: Path, shot: Shot) -> Path:
    subject, text = shot.subject, shot.subject.prompts[shot.prompt].text
    manifest = read_manifest(folder)
    if manifest is not None:
        path = manifest.get((subject.id, text, shot.seed))
        if path is None:
            raise FileNotFoundError(f"{folder}: its manifest has no {subject.id}, {text!r}, seed {shot.seed}")
        return path
    stem = folder / subject.id / f"p{shot.prompt}.s{shot.seed}"
    for suffix in (".png", *IMAGES):
        path = Path(f"{stem}{suffix}")
        if path.exists():
            return path
    raise FileNotFoundError(f"no {stem}.png (nor {', '.join(IMAGES)}), the picture of {text!r}")


@lru_cache(maxsize=32)
def read_manifest(folder: Path) -> Manifest | None:
    """None if the folder has none. ConfigError names the line that cannot be used."""
    found: dict[tuple[str, str, int], Path] = {}
    if (folder / CSV).exists():
        source = folder / CSV
        lines = _lines_of_csv(source)
    elif (folder / JSON).exists():
        source = folder / JSON
        lines = _lines_of_json(source)
    else:
        return None
    for number, line in enumerate(lines, start=1):
        missing = [name for name in COLUMNS if line.get(name) in (None, "")]
        if missing:
            raise ConfigError(f"{source}: entry {number} has no {missing[0]}; needed: {', '.join(COLUMNS)}")
        try:
            seed = int(line["seed"])
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f"{source}: entry {number} has the seed {line['seed']!r}; allowed: whole numbers"
            ) from error
        if not all(isinstance(line[name], str) for name in ("object", "prompt", "file")):
            raise ConfigError(f"{source}: entry {number}: object, prompt and file must be text")
        key = (line["object"], line["prompt"], seed)
        if key in found:
            raise ConfigError(f"{source}: entry {number} repeats {key}; give each image once")
        found[key] = inside(folder, line["file"], source)
    return found


def _lines_of_csv(source: Path) -> list[dict[str, str]]:
    try:
        with source.open(encoding="utf-8-sig", newline="") as stream:
            return list(csv.DictReader(stream, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        needed = f"save it as UTF-8 with the columns {', '.join(COLUMNS)}"
        raise ConfigError(f"{source}: cannot be read as CSV: {error}; {needed}") from error


def _lines_of_json(source: Path) -> list[dict[str, Any]]:
    try:
        lines = parse_json(source.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{source}: cannot be read as JSON: {error}") from error
    if not isinstance(lines, list) or not all(isinstance(line, dict) for line in lines):
        raise ConfigError(f"{source}: needed: a list of objects with {', '.join(COLUMNS)}")
    return lines
