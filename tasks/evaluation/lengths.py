"""Prompts that the text encoders of the customization model take whole, as every row tells them."""

from collections.abc import Iterable, Iterator

from configs.evaluation import Evaluate
from data.shards import ShardWriter
from models.customizer import Customizer, too_long
from tasks.evaluation.rows import Row, rows_of
from tasks.evaluation.subjects import Subject
from tasks.evaluation.tuning import tuned_texts


def with_short_prompts(
    section: Evaluate, customizer: Customizer, subjects: Iterable[Subject], out: ShardWriter
) -> Iterator[Subject]:
    """The subjects that the model can be told every prompt of; the others are recorded as failed.

    A prompt is never cut, and one that is refused would end the whole shard.
    """
    for subject in subjects:
        texts = dict.fromkeys(text for row in rows_of(section) for text in _told(section, row, subject))
        problems = [problem for text in texts if (problem := too_long(customizer, text)) is not None]
        if problems:
            out.fail(subject.id, "long_prompt", f"{len(problems)} of {len(texts)} prompts, for example: {problems[0]}")
            continue
        yield subject


def _told(section: Evaluate, row: Row, subject: Subject) -> list[str]:
    """What the model is told in a row of a subject; nothing where another row's or no model makes the images."""
    if row.source == "tuning":
        return tuned_texts(section, row, subject)
    return [prompt.text for prompt in subject.prompts] if row.source == "customizer" else []
