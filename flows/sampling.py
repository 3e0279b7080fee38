"""`syncd sample`: the workspace's checkpoint and the sampling settings of its recipe, unless others are named."""

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import ConfigError
from configs.evaluation import Evaluate
from configs.load import overridden, validated
from configs.schema import ModelRef, Models
from data.outside_text import on_terminal
from flows.console import clock_text
from flows.errors import warn
from flows.graph import RECIPE_FILE
from flows.worker import resolve_device
from flows.workspace import choose_recipe

if TYPE_CHECKING:
    from models.guidance import OnStep, Step

SETTINGS = {
    "steps": "num_inference_steps",
    "guidance_scale": "guidance_scale",
    "guidance": "guidance",
    "dtype": "dtype",
}
"""Fields of the recipe's evaluate section, and the arguments of tasks.sample.sample that they set."""
SHORT = {
    "steps": "evaluate.steps",
    "guidance": "evaluate.guidance.form",
    "image_scale": "evaluate.guidance.image_scale",
    "text_scale": "evaluate.guidance.text_scale",
    "dtype": "evaluate.dtype",
}
"""Options of the command, and the keys of the recipe that they override."""


@dataclass(frozen=True)
class Wish:
    """What the command was asked for; None where it was not."""

    references: Sequence[Path]
    prompt: str
    output: Path
    masks: Sequence[Path] = ()
    segment: str | None = None
    seed: int = 0
    count: int = 1
    height: int | None = None
    width: int | None = None
    checkpoint: Path | None = None
    recipe: str | None = None
    device: str = "auto"


def sample_to_file(wish: Wish, overrides: Sequence[str], workspace: Path) -> list[Path]:
    """Make pictures and save them; ConfigError for what is missing, cannot be read or does not fit into memory."""
    for kind, paths in (("reference", wish.references), ("mask", wish.masks)):
        missing = [str(path) for path in paths if not path.exists()]
        if missing:
            raise ConfigError(f"no such {kind}: {', '.join(missing)}")
    source = wish.checkpoint or workspace / "artifacts" / "train"
    if not source.exists():
        raise ConfigError(f"{source}: no checkpoint; train one with syncd run --until train, or name one: --checkpoint")
    from tasks.sample import read_provenance, sample

    try:
        section, models = _settings(workspace, wish.recipe, overrides, _base_of(source))
        with _progress(wish.count) as progress:
            paths = sample(
                wish.references,
                wish.prompt,
                source,
                wish.output,
                masks=wish.masks or None,
                segment=wish.segment,
                seed=wish.seed,
                count=wish.count,
                height=wish.height,
                width=wish.width,
                device=resolve_device(wish.device),
                finder={
                    "segmenter": models and models.segmenter,
                    "detector": models and models.detector,
                    "detection_threshold": section.detection_threshold,
                },
                progress=progress,
                **{argument: getattr(section, field) for field, argument in SETTINGS.items()},
            )
    except (ValueError, OSError) as error:
        raise ConfigError(f"sample: {error}") from error
    if wish.references and read_provenance(paths[0])["references_cut"] == "middle":
        warn("the object was taken to be in the middle square of every reference; say where it is: --mask or --segment")
    return paths


def provenance_lines(path: Path) -> list[str]:
    """What a picture of `sample_to_file` was made from, a line each; ConfigError if it carries nothing."""
    from tasks.sample import read_provenance

    try:
        told = read_provenance(path)
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
    norms = told.pop("guidance_norms", [])
    settings = told.pop("settings")
    lines = [f"{name:22} {_shown(value)}" for name, value in {**told, **settings}.items()]
    if norms:
        lines += ["", f"{'step':>4} {'noise level':>12} {'|g_I|':>12} {'|g_c|':>12}"]
        lines += [
            f"{step + 1:4} {level:12.4f} {image:12.4f} {text:12.4f}" for step, (level, image, text) in enumerate(norms)
        ]
    return lines


def _shown(value: Any) -> str:
    return on_terminal(json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value))


def overrides_of(options: Mapping[str, Any], more: Sequence[str]) -> tuple[str, ...]:
    """`--set` words of the short options that were given, behind those that were written out."""
    short = (f"{SHORT[name]}={value}" for name, value in options.items() if value is not None)
    return (*more, *short)


def _base_of(source: Path) -> ModelRef:
    """The base model that a checkpoint names in its header. ValueError if it names none."""
    from models.header import read_metadata
    from models.training.record import CheckpointRecord
    from models.training.restore import checkpoint_file

    file = checkpoint_file(source)
    try:
        return CheckpointRecord.from_header(read_metadata(file)).base_model
    except KeyError as error:
        raise ValueError(f"{file}: its header does not describe a SynCD checkpoint ({error} is missing)") from error


def _settings(
    workspace: Path, name: str | None, overrides: Sequence[str], base: ModelRef
) -> tuple[Evaluate, Models | None]:
    """The evaluate section and the models of the recipe `name`, else of the active one.

    Without either, the section's defaults, which are those of FLUX, and none. ConfigError for a recipe of another base
    model than the checkpoint's: scales of one model mean nothing to another.
    """
    if name is not None or (workspace / RECIPE_FILE).exists():
        recipe = choose_recipe(workspace, name, tuple(overrides))
        customizer = recipe.models.customizer
        if customizer != base:
            raise ConfigError(
                f"the checkpoint was trained from {base.name}@{base.revision}, recipe {recipe.name} is for "
                f"{customizer.name}@{customizer.revision}; name a recipe of that model with --recipe"
            )
        return recipe.evaluate, recipe.models
    if base.architecture != "flux":
        raise ConfigError(
            f"the checkpoint was trained from {base.name}, and without a recipe the settings are those of FLUX; name "
            "the recipe that it was made with: --recipe"
        )
    given = overridden({}, overrides)
    unknown = [name for name in given if name != "evaluate"]
    if unknown:
        raise ConfigError(
            f"--set {unknown[0]}: without an active recipe in {workspace} only evaluate.KEY can be set; name one with "
            "--recipe"
        )
    return validated(Evaluate, given.get("evaluate", {}), "--set evaluate"), None


@contextmanager
def _progress(count: int) -> Iterator["OnStep | None"]:
    """A bar of steps with rate and time left on a terminal; elsewhere nothing, so that output is paths alone."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("1 image" if count == 1 else f"{count} images", total=None, note="loading")
        started = time.monotonic()

        def show(step: "Step") -> None:
            nonlocal started
            if step.number == 0:
                started = time.monotonic()
            rate = step.number / max(time.monotonic() - started, 1e-6)
            left = f"{rate:.2f} steps/s, {clock_text((step.count - step.number - 1) / rate)} left" if rate else ""
            bar.update(task, completed=step.number + 1, total=step.count, note=left)

        yield show
