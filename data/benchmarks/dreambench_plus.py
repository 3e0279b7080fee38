"""DreamBench++: `images/.../CATEGORY/INDEX.jpg` with captions of the same name in `captions/.../CATEGORY/INDEX.txt`:
the subject in the first line, then nine prompts."""

from pathlib import Path

from configs.errors import ConfigError
from data.benchmarks.base import IMAGES, BenchmarkObject, labels, text_of
from data.records import Prompt

NAME = "dreambench_plus"
FIX = "point evaluate.benchmark_folder at the unpacked data of github.com/yuangpeng/dreambench_plus (images, captions)"


def read(folder: Path) -> list[BenchmarkObject]:
    """Objects by path, one reference each. ConfigError names the file that is missing or not as published."""
    known = labels(NAME)
    captions = folder / "captions"
    found = []
    for path in sorted(captions.rglob("*.txt")):
        if path.parent.name not in known["categories"]:
            continue
        place = path.relative_to(captions).with_suffix("")
        images = [folder / "images" / f"{place}{suffix}" for suffix in IMAGES]
        image = next((candidate for candidate in images if candidate.exists()), None)
        if image is None:
            raise ConfigError(f"{images[0]}: missing, and {path} describes it; {FIX}")
        lines = [line.strip() for line in text_of(path, FIX).splitlines() if line.strip()]
        if len(lines) != 1 + len(known["kinds"]):
            raise ConfigError(
                f"{path}: {len(lines)} lines; needed: the subject and {len(known['kinds'])} prompts; {FIX}"
            )
        subject, *prompts = lines
        found.append(
            BenchmarkObject(
                object_id=f"{path.parent.name}-{path.stem}".lower().replace(" ", "_"),
                category=subject,
                phrase=subject,
                references=(image,),
                prompts=tuple(Prompt(text=text, kind=kind) for text, kind in zip(prompts, known["kinds"], strict=True)),
            )
        )
    if not found:
        raise ConfigError(f"{captions}: no captions of {', '.join(known['categories'])}; {FIX}")
    return found
