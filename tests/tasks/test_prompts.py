"""Appearances: asked for by series, one for each object, in what the model is told and in no published prompt."""

from collections.abc import Sequence
from pathlib import Path

import stage_runs

from configs.load import load_recipe
from data.assets.base import AssetCandidate
from data.assets.subjects import SubjectsSource
from data.records import AssetRecord
from models.prompts.grammar import GrammarWriter
from models.prompts.validate import Limits
from models.prompts.writer import Ask, Draft
from tasks import prompts
from tasks.prompts import Look, appearances

LIMITS = Limits(min_words=3, max_words=60, max_rounds=2)


class Breeder:
    """Knows two looks of every kind."""

    name = "breeder"

    def __init__(self) -> None:
        self.asks: list[Ask] = []

    def write(self, asks: Sequence[Ask]) -> list[list[Draft]]:
        self.asks += asks
        return [[Draft(f"The {ask.attributes['kind']} cat is {colour}") for colour in ("red", "grey")] for ask in asks]

    def with_appearance(self, text: str, object_caption: str, appearance: str) -> str:
        raise AssertionError("not asked for here")


def cat(kind: str, number: int, of: int = 2) -> AssetRecord:
    return AssetRecord(
        object_id=f"cat-{kind}-{number}",
        split="train",
        category="cat",
        caption="a cat",
        licence="CC0-1.0",
        source="subjects",
        uri=f"subject:cat/{kind}",
        source_sha256="0" * 64,
        source_format="words",
        outcome="described",
        mesh_sha256=None,
        attributes={"kind": kind, "number": number, "of": of},
    )


def test_each_object_of_a_series_takes_its_own_look() -> None:
    writer = Breeder()
    found = appearances(writer, [cat("tabby", 0), cat("tabby", 1), cat("siamese", 1)], LIMITS, 7)
    assert [look.text for look in found.values()] == [
        "The tabby cat is red",
        "The tabby cat is grey",
        "The siamese cat is grey",
    ]
    assert [(ask.kind, ask.n, ask.object_caption) for ask in writer.asks] == [
        ("appearance", 2, "siamese"),
        ("appearance", 2, "tabby"),
    ]


def test_a_series_is_never_cut(tmp_path: Path) -> None:
    recipe = load_recipe("flux-deformable", ("prompts.shard_size=4",))
    source = SubjectsSource({"bee": (), "cat": ("tabby", "siamese"), "dog": ()}, 3)
    records = [(asset.id, record_of(asset), {}) for asset in source.candidates()]
    stage_runs.write_input(tmp_path, "assets", records, recipe, shard_size=20)
    specs = prompts.plan(stage_runs.context("prompts", recipe, tmp_path, ("assets",)))
    assert [sorted({key[:-4] for key in spec.keys}) for spec in specs] == [
        ["bee"],
        ["cat-siamese"],
        ["cat-tabby"],
        ["dog"],
    ]
    assert sorted(key for spec in specs for key in spec.keys) == [key for key, _, _ in records]


def record_of(asset: AssetCandidate) -> AssetRecord:
    return cat("x", 0).model_copy(update={"object_id": asset.id, "category": asset.category})


def test_an_object_behind_the_last_look_says_why_it_has_none() -> None:
    found = appearances(Breeder(), [cat("tabby", 1, of=3), cat("tabby", 2, of=3)], LIMITS, 7)
    assert found["cat-tabby-1"] == Look("The tabby cat is grey")
    assert found["cat-tabby-2"].text is None
    assert "2 of 3 appearance captions for 'tabby'" in str(found["cat-tabby-2"].problem)


def test_the_grammar_puts_the_looks_where_the_caption_was() -> None:
    writer = GrammarWriter()
    told = writer.with_appearance("a duck next to a book", "a duck", "a red duck with a blue beak")
    assert told == "a red duck with a blue beak next to a book"
