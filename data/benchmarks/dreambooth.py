"""DreamBooth: `SUBJECT/*.jpg` beside `prompts_and_classes.txt`, as in the `dataset` folder of its repository."""

import re
from pathlib import Path

from configs.errors import ConfigError
from configs.load import CONFIGS
from data.benchmarks.base import BenchmarkObject, images_in, labels, text_of
from data.records import Prompt

NAME = "dreambooth"
LIST = "prompts_and_classes.txt"
FIX = "point evaluate.benchmark_folder at the dataset folder of github.com/google/dreambooth"
_PROMPT = re.compile(r"""^\s*(['"])(?P<text>.*)\1\.format\(""")
_HEADINGS = {"Classes": "classes", "Object Prompts": "objects", "Live Subject Prompts": "live"}


def read(folder: Path) -> list[BenchmarkObject]:
    """The subjects in the order of their list. ConfigError names the file that is missing or not as published."""
    path = folder / LIST
    parts = _parts(text_of(path, FIX))
    known = labels(NAME)
    classes = [
        tuple(line.split(",")) for line in parts["classes"] if line.count(",") == 1 and "subject_name" not in line
    ]
    templates = {part: _templates(parts[part], path) for part in ("objects", "live")}
    if not classes:
        raise ConfigError(f"{path}: no line SUBJECT,CLASS below the heading Classes; {FIX}")
    found = []
    for subject, category in classes:
        chosen = templates["live" if category in known["live"] else "objects"]
        found.append(
            BenchmarkObject(
                object_id=subject,
                category=category,
                phrase=known["phrases"].get(subject, category),
                references=images_in(folder / subject, FIX),
                prompts=tuple(
                    Prompt(text=template.format(category), kind=kind_of(template, path)) for template in chosen
                ),
            )
        )
    return found


def _parts(text: str) -> dict[str, list[str]]:
    """Lines below each heading."""
    parts: dict[str, list[str]] = {name: [] for name in _HEADINGS.values()}
    current: list[str] = []
    for line in map(str.strip, text.splitlines()):
        if line in _HEADINGS:
            current = parts[_HEADINGS[line]]
        elif line:
            current.append(line)
    return parts


def _templates(lines: list[str], path: Path) -> list[str]:
    """Prompts with {} for the class; the place of the unique token, which nothing is trained for here, is dropped."""
    texts = [found["text"] for found in map(_PROMPT.match, lines) if found]
    if not texts:
        raise ConfigError(f"{path}: a list of prompts is empty; {FIX}")
    return [text.replace("{0} ", "").replace("{1}", "{}") for text in texts]


def kind_of(template: str, path: Path) -> str:
    """background or property, by the table in configs; ConfigError for a prompt that it does not have."""
    known = labels(NAME)
    for kind in ("background", "property"):
        if template in known[kind]:
            return kind
    raise ConfigError(
        f"{path}: the prompt {template!r} is not labelled; add it to background or property in "
        f"{CONFIGS / 'benchmarks' / NAME}.yaml"
    )
