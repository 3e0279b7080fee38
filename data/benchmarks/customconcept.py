"""CustomConcept101: `dataset.json`, `prompts/*.txt` and `benchmark_dataset/CONCEPT/*`, as in its repository."""

import re
from functools import cache
from pathlib import Path

from configs.errors import ConfigError
from data.benchmarks.base import BenchmarkObject, images_in, inside, labels, text_of
from data.outside_text import parse_json
from data.records import Prompt

NAME = "customconcept101"
LIST = "dataset.json"
FIX = (
    "point evaluate.benchmark_folder at the customconcept101 folder of github.com/adobe-research/custom-diffusion, "
    "with benchmark_dataset.zip unpacked in it"
)
KEYS = ("class_prompt", "instance_data_dir", "prompt_filename")


def read(folder: Path) -> list[BenchmarkObject]:
    """The concepts in the order of their list. ConfigError names the file that is missing or not as published."""
    path = folder / LIST
    try:
        entries = parse_json(text_of(path, FIX))
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}; {FIX}") from error
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"{path}: no list of concepts; {FIX}")
    found = []
    for place, entry in enumerate(entries):
        missing = [key for key in KEYS if not isinstance(entry, dict) or not isinstance(entry.get(key), str)]
        if missing:
            raise ConfigError(f"{path}: entry {place} has no {missing[0]}; {FIX}")
        images = inside(folder, entry["instance_data_dir"], path)
        prompts = inside(folder, entry["prompt_filename"], path)
        lines = [line.strip() for line in text_of(prompts, FIX).splitlines() if line.strip()]
        without = [line for line in lines if "{}" not in line]
        if without or not lines:
            wrong = repr(without[0]) if without else "no line at all"
            raise ConfigError(f"{prompts}: {wrong} has no {{}} for the class; {FIX}")
        found.append(
            BenchmarkObject(
                object_id=images.name.lower(),
                category=entry["class_prompt"],
                phrase=entry["class_prompt"],
                references=images_in(images, FIX),
                prompts=tuple(
                    Prompt(text=line.replace("{}", entry["class_prompt"]), kind=kind_of(line)) for line in lines
                ),
            )
        )
    return found


def kind_of(line: str) -> str:
    """background or property, by the words in configs and where they stand."""
    return "property" if _property().search(line) else "background"


@cache
def _property() -> re.Pattern[str]:
    """Of a line in which one of the words stands in its place."""
    known = {place: rf"\b(?:{'|'.join(words)})\b" for place, words in labels(NAME).items()}
    subject = r"\{\}\w*,?"
    places = (
        rf"{known['adjectives']} \{{\}}",
        rf"{subject} (?:is|are|looks?|turn(?:s|ed)) {known['adjectives']}",
        rf"{subject}(?: is| are)?[ -]{known['predicates']}",
        rf"{known['arts']} of\b(?:(?!{known['apart']}).){{0,200}}\{{\}}",
        rf"{subject}(?: {known['media']})* {known['arts']}(?! (?:an?|the)\b)",
        known["anywhere"],
    )
    return re.compile("|".join(places), re.IGNORECASE)
