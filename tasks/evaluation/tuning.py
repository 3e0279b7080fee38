"""Rows that are tuned on every object: what the object is called, and the tuned model."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from configs.evaluation import Evaluate
from data.shards import ShardWriter
from data.stage import StageContext
from models.customizer import Customizer, CustomizeSettings
from models.evaluation.tables import KINDS
from models.tuning import tune
from models.tuning.prompts import class_noun, instance_prompt, tuned_prompt
from models.tuning.run import Concept, Run
from tasks.evaluation.rows import Row, guidance_of, rows_of
from tasks.evaluation.subjects import Subject

BACKGROUND, _ = KINDS
FOLDER = "tuned"
"""In the work folder of the stage: tuned weights and class images, so that a killed evaluation tunes nothing again."""


def with_nouns(section: Evaluate, subjects: Iterable[Subject], out: ShardWriter) -> Iterator[Subject]:
    """The subjects that a tuned row can be made of, all if there is none; the others are recorded as failed.

    The identifier takes the place before the noun, so every prompt must call the object by one noun.
    """
    for subject in subjects:
        if any(row.source == "tuning" for row in rows_of(section)):
            try:
                noun_of(subject)
            except ValueError as error:
                out.fail(subject.id, "no_noun", str(error))
                continue
        yield subject


def check_tuning(section: Evaluate, customizer: Customizer) -> None:
    """ValueError if a tuned row of the recipe cannot be made with the model, before any is made."""
    for row in rows_of(section):
        if row.source == "tuning":
            tune.check(customizer, settings_of(section, row))


def settings_of(section: Evaluate, row: Row) -> tune.Settings:
    """Section of the recipe of the row's name."""
    return {"dreambooth": section.dreambooth, "custom_diffusion": section.custom_diffusion}[row.kind]


def noun_of(subject: Subject) -> str:
    """What all prompts call the object; ValueError naming one that does not."""
    record = subject.record
    return class_noun(record.category, record.caption, [prompt.text for prompt in subject.prompts])


def tuned_texts(section: Evaluate, row: Row, subject: Subject) -> list[str]:
    """All that a tuned model of the row is told: the caption of its references, and the prompts with the identifier."""
    settings, noun = settings_of(section, row), noun_of(subject)
    return [instance_prompt(settings.prompt, settings.token, noun), *_with_identifier(section, row, subject)]


def _with_identifier(section: Evaluate, row: Row, subject: Subject) -> list[str]:
    token, noun = settings_of(section, row).token, noun_of(subject)
    return [tuned_prompt(prompt.text, noun, token) for prompt in subject.prompts]


@contextmanager
def tuned_on(ctx: StageContext, customizer: Customizer, row: Row, subject: Subject) -> Iterator[list[str]]:
    """Inside, the customizer is tuned on all references of the subject; yields its prompts with the identifier."""
    section, noun = ctx.recipe.evaluate, noun_of(subject)
    height, width = subject.references[0].shape[:2]
    guidance = guidance_of(section, row, BACKGROUND)
    run = Run(
        customizer=customizer,
        base=ctx.recipe.models.customizer,
        sampling=CustomizeSettings(height, width, section.steps, section.guidance_scale, guidance),
        batch_images=section.batch_images,
        seed=ctx.recipe.seed,
        cache=ctx.work_dir / FOLDER,
    )
    with tune.tuned(run, Concept(subject.id, noun, subject.references), settings_of(section, row)):
        yield _with_identifier(section, row, subject)
