"""The dataset's card: what is in it, under which terms, how it was made and how to read it."""

import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from data.ids import canonical_json

READING = """\
import io
import json

import webdataset
from PIL import Image

shards = [shard["name"] for shard in json.load(open("index.json"))["shards"]]
for sample in webdataset.WebDataset(shards, shardshuffle=False):
    record = json.loads(sample["json"])
    for entry in record["samples"]:
        image = Image.open(io.BytesIO(sample[f"{entry['index']}.png"]))
        mask = Image.open(io.BytesIO(sample[f"{entry['index']}.mask.png"]))
        print(record["set_id"], entry["prompt"], image.size, mask.size)
"""
"""Reads the dataset from inside its folder; printed in the card."""


MINIATURE = """
**This dataset was made by the miniature**, small networks on a procedural world that show and test the pipeline. None
of its figures says anything about the real models.
"""


MESH_TERMS = (
    "Meshes come from: {sources}. Every set names its mesh (`asset.uri`, `asset.licence`, `asset.mesh_sha256` in its "
    "record); give credit there where the licence asks for it."
)
DESCRIBED_TERMS = "The objects were made up in words: there are no meshes and no photographs behind them."
MESH_ORIGIN = (
    "Views of each mesh were rendered; the images of a set were generated together from their depth, with the settings "
    "that its record holds, and masks are those of the render."
)
DESCRIBED_ORIGIN = (
    "The images of a set were generated together from a description of the object and a context for each image, with "
    "the settings that its record holds. Masks come from the attention to the object's words. The description is in "
    "`appearance` and in what the generator was told (`prompt_sent`), and is left out of `prompt`."
)


@dataclass(frozen=True)
class CardFacts:
    """Counts are of what is published; yields are shares of what was generated and scored."""

    title: str
    recipe: str
    seed: int
    objects: int
    sets: int
    images: int
    images_per_set: dict[str, int]
    categories: dict[str, int]
    """Sets by category."""
    licences: dict[str, int]
    """Objects by licence of their mesh."""
    sources: dict[str, int]
    """Objects by source of their mesh."""
    held_out_objects: int | None
    thresholds: dict[str, float]
    set_yield: float | None
    image_yield: float | None
    dropped_images: dict[str, int]
    generators: dict[str, int]
    """Sets by generator, as name@revision."""
    generator_licence: str
    scorers: dict[str, str]
    """Role -> name@revision."""
    miniature: bool
    """Made by the embedded miniature, not by the real models."""
    described: bool
    """Objects are known in words alone: there are no meshes."""
    writer: str
    """Who wrote the captions, as name@revision or the name of the grammar."""
    bytes: int
    shards: int


def write_card(facts: CardFacts, folder: Path) -> None:
    """DATASET_CARD.md for people and card.json, the same facts, for programs."""
    (folder / "card.json").write_bytes(canonical_json(asdict(facts)) + b"\n")
    (folder / "DATASET_CARD.md").write_text(card_text(facts), encoding="utf-8")


def card_text(facts: CardFacts) -> str:
    return f"""# {facts.title}

Sets of images of one object each, in different contexts, generated for training image customization.
{MINIATURE if facts.miniature else ""}
| | |
|---|---|
| objects | {facts.objects} |
| sets | {facts.sets} |
| images | {facts.images} |
| sets by number of images | {_listed(facts.images_per_set)} |
| shards | {facts.shards} ({facts.bytes / 1e6:.2f} MB) |
| recipe | {facts.recipe}, seed {facts.seed} |
| held-out objects, not in here | {"not counted" if facts.held_out_objects is None else facts.held_out_objects} |

## Licences
{_table((f"licence of the {'description' if facts.described else 'mesh'}", "objects"), facts.licences)}

{_terms(facts)}

## How it was made
{_origin(facts)}

{_table(("generator", "sets"), facts.generators)}

{_table(("scored by", "model"), facts.scorers)}

## Selection
{_table(("threshold", "value"), facts.thresholds)}

Kept: {_percent(facts.set_yield)} of the sets and {_percent(facts.image_yield)} of the images that were scored.
Images dropped, by reason: {_listed(facts.dropped_images) or "none"}.

## Categories
{_table(("category", "sets"), facts.categories)}

## Reading it
WebDataset tars, listed with their sha256 in `index.json`. One sample is one set: `KEY.json` (the record), and for every
image in `samples` `KEY.INDEX.png` and its object mask `KEY.INDEX.mask.png` (255 on the object). Indexes of dropped
images are missing; `dropped` says why.

```python
{READING}```
"""


def _terms(facts: CardFacts) -> str:
    own = DESCRIBED_TERMS if facts.described else MESH_TERMS.format(sources=_listed(facts.sources))
    return _paragraph(
        f"{own} The images were generated by a model under {facts.generator_licence}, whose terms for its outputs bear "
        "on the use of an image as well; this card grants nothing beyond all these terms."
    )


def _origin(facts: CardFacts) -> str:
    return _paragraph(
        f"{DESCRIBED_ORIGIN if facts.described else MESH_ORIGIN} Captions were written by {facts.writer}. All images "
        "were scored, and kept or dropped by the thresholds below. Each image has a seed of its own, derived from the "
        "run seed and the id of the image, and recorded with it."
    )


def _paragraph(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in counts.items())


def _table(header: tuple[str, str], rows: Mapping[str, object]) -> str:
    cells = [(_cell(name), _cell(value)) for name, value in rows.items()]
    return "\n".join(f"| {left} | {right} |" for left, right in (header, ("---", "---"), *cells))


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.1f} %"
