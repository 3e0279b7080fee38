"""TIFA's questions about the prompts of an evaluation: from a file, or written by the language model."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from data.shards import ShardWriter
from data.stage import StageContext
from models.evaluation.questions import ROUNDS, write_questions
from models.evaluation.tifa import Question, read_questions
from models.prompts.writers import open_chat
from tasks.evaluation.subjects import Subject
from tasks.prompts import answers_folder


def with_questions(ctx: StageContext, subjects: Iterable[Subject], out: ShardWriter) -> Iterator[Subject]:
    """The subjects, under text metric tifa with the questions as facts of their prompts.

    A subject with a prompt that nothing can be asked about is recorded as failed.
    """
    if ctx.recipe.evaluate.text_metric != "tifa":
        yield from subjects
        return
    chosen = list(subjects)
    prompts = list(dict.fromkeys(prompt.text for subject in chosen for prompt in subject.prompts))
    questions, source = _questions(ctx, prompts)
    for subject in chosen:
        missing = [prompt.text for prompt in subject.prompts if prompt.text not in questions]
        if missing:
            out.fail(subject.id, "no_questions", f"{len(missing)} prompts, for example {missing[0]!r}: {source}")
            continue
        asked = [prompt.model_copy(update={"facts": questions[prompt.text]}) for prompt in subject.prompts]
        yield replace(subject, record=subject.record.model_copy(update={"prompts": asked}))


def _questions(ctx: StageContext, prompts: list[str]) -> tuple[dict[str, list[Question]], str]:
    """Prompt -> questions, for the prompts that have some; and why others have none."""
    section, writer = ctx.recipe.evaluate, ctx.recipe.models.writer
    if section.questions is not None:
        path = ctx.workspace / Path(section.questions)
        return read_questions(path), f"{path} asks nothing about it"
    if writer is None:
        raise ValueError("evaluate.text_metric is tifa with neither evaluate.questions nor models.writer")
    chat = open_chat(writer, section.dtype, ctx.device, ctx.options, answers_folder(ctx))
    written = write_questions(chat, prompts, ctx.recipe.seed)
    source = f"{writer.name} wrote too few usable questions in {ROUNDS} rounds"
    return {prompt: own.questions for prompt, own in written.items() if own.enough}, source
