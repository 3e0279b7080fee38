"""The dataset's card: what is in it, under which terms, how it was made and how to read it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data.ids import canonical_json
from data.release.licensing import OutputLicence
from data.release.words import bullets, front_matter, hub_licence, licence_section, paragraph, table

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

READING_CROISSANT = """\
import os
import tempfile

os.environ["CROISSANT_CACHE"] = tempfile.mkdtemp()
import mlcroissant

for record in mlcroissant.Dataset("croissant.json").records("images"):
    print(record["images/set_id"].decode(), record["images/prompt"].decode(), record["images/content"].size)
"""
"""The same through mlcroissant."""

MINIATURE = """
**This dataset was made by the miniature**, small networks on a procedural world that show and test the pipeline. None
of its figures says anything about the real models.
"""
SYNTHETIC = (
    "All images are synthetic: a generative model made them. Each PNG says so in its metadata, as IPTC's digital "
    "source type trainedAlgorithmicMedia (XMP). The mark is lost when a file is stripped of its metadata. There is no "
    "watermark in the pixels, since a model that is trained on them would learn it."
)

MESH_TERMS = (
    "Meshes come from: {sources}. Every set names its mesh (`asset.uri`, `asset.licence`, `asset.mesh_sha256` in its "
    "record). The credit that licences ask for is in `ATTRIBUTION.md` and `attribution.csv`: {credited} of {objects} "
    "objects."
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
INTENDED_USE = (
    "Training and studying models that place a given object into new images (image customization).",
    "Studying consistency of generated image sets.",
)
NOT_INTENDED = "Not meant for recognising people, nor as a picture of how common anything is in the world."
LIMITATIONS = (
    "Images are generated: the objects of a set are as alike as the thresholds of selection ask, not the same to the "
    "last detail, and images may contradict physics or their prompt.",
    "Scores, masks and captions come from models and were not checked by people.",
)
MINIATURE_LIMITATION = (
    "Made by the miniature: small, procedural objects; of no use beyond showing and testing the pipeline."
)
BIASES = (
    "Objects, looks and scenes are as biased as the assets, the writer of the prompts and the generator are.",
    "Selection by an aesthetic score and by DINOv2 similarity favours what these models rate highly.",
)
CITATION = "Kumari et al.: Generating Multi-Image Synthetic Data for Text-to-Image Customization. 2025."


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
    credited: int
    """Objects whose licence asks for credit."""
    licence: OutputLicence
    """Of the dataset, worked out from its inputs."""
    allowed_licences: list[str]
    """The allow-list that assets were selected and published by."""
    refused_licences: dict[str, int]
    """Sets that selection dropped for the licence of their asset, by licence."""
    held_out_objects: int | None
    thresholds: dict[str, float]
    set_yield: float | None
    image_yield: float | None
    dropped_images: dict[str, int]
    generators: dict[str, int]
    """Sets by generator, as name@revision."""
    makers: dict[str, str]
    """Models whose output is in the dataset -> their licence."""
    scorers: dict[str, str]
    """Role -> name@revision."""
    miniature: bool
    """Made by the embedded miniature, not by the real models."""
    described: bool
    """Objects are known in words alone: there are no meshes."""
    writer: str
    """Who wrote the captions, as name@revision or the name of the grammar."""
    release: dict[str, Any]
    """The release part of the recipe."""
    bytes: int
    shards: int

    @property
    def description(self) -> str:
        what = "Sets of images of one object each, in different contexts, generated for training image customization."
        return f"{what} {' '.join(MINIATURE.split()).replace('**', '')}" if self.miniature else what

    @property
    def citation(self) -> str:
        return self.release["citation"] or CITATION

    @property
    def intended_use(self) -> tuple[str, ...]:
        return (*(self.release["intended_use"] or INTENDED_USE), NOT_INTENDED)

    @property
    def limitations(self) -> tuple[str, ...]:
        return (*([MINIATURE_LIMITATION] if self.miniature else []), *LIMITATIONS, *self.release["limitations"])

    @property
    def biases(self) -> tuple[str, ...]:
        return (*BIASES, *self.release["biases"])

    @property
    def origin(self) -> str:
        return (
            f"{DESCRIBED_ORIGIN if self.described else MESH_ORIGIN} Captions were written by {self.writer}. All images "
            "were scored, and kept or dropped by thresholds. Each image has a seed of its own, derived from the run "
            "seed and the id of the image, and recorded with it."
        )

    @property
    def sources_in_words(self) -> str:
        if self.described:
            return DESCRIBED_TERMS
        listed = _listed(self.sources)
        return MESH_TERMS.format(sources=listed, credited=self.credited, objects=self.objects)

    @property
    def selection_in_words(self) -> str:
        thresholds = ", ".join(f"{name} {value:g}" for name, value in self.thresholds.items())
        return (
            f"Kept: {_percent(self.set_yield)} of the sets and {_percent(self.image_yield)} of the images that were "
            f"scored. Thresholds: {thresholds}. Allowed licences of assets: {', '.join(self.allowed_licences)}."
        )


def write_card(facts: CardFacts, folder: Path) -> None:
    """DATASET_CARD.md for people and card.json, the same facts, for programs."""
    (folder / "card.json").write_bytes(canonical_json(asdict(facts)) + b"\n")
    (folder / "DATASET_CARD.md").write_text(card_text(facts), encoding="utf-8")


def card_text(facts: CardFacts) -> str:
    release = facts.release
    matter = {
        "pretty_name": facts.title,
        **hub_licence(facts.licence.expression, "DATASET_CARD.md"),
        "task_categories": ["text-to-image", "image-to-image"],
        "tags": ["synthetic", "croissant", "webdataset", "image-customization"],
        "language": ["en"],
    }
    return f"""{front_matter(matter)}
# {facts.title}

Sets of images of one object each, in different contexts, generated for training image customization.
{MINIATURE if facts.miniature else ""}
| | |
|---|---|
| objects | {facts.objects} |
| sets | {facts.sets} |
| images | {facts.images} |
| sets by number of images | {_listed(facts.images_per_set)} |
| shards | {facts.shards} ({facts.bytes / 1e6:.2f} MB) |
| version | {release["version"]}, {release["date"] or "date not stated"} |
| recipe | {facts.recipe}, seed {facts.seed} |
| held-out objects, not in here | {"not counted" if facts.held_out_objects is None else facts.held_out_objects} |
| creator | {release["creator"] or "not stated"} |
| contact | {release["contact"] or "not stated"} |

{paragraph(SYNTHETIC)}

## Licence
{licence_section(facts.licence)}

{table((f"licence of the {'description' if facts.described else 'mesh'}", "objects"), facts.licences)}

{table(("made by", "licence of the model"), facts.makers)}

{paragraph(f"{facts.sources_in_words} Allowed were {', '.join(facts.allowed_licences)}; {_refused(facts)}")}

## Use
{bullets(facts.intended_use)}

## Limitations
{bullets(facts.limitations)}

### Biases
{bullets(facts.biases)}

## How it was made
{paragraph(facts.origin)}

{table(("generator", "sets"), facts.generators)}

{table(("scored by", "model"), facts.scorers)}

## Selection
{table(("threshold", "value"), facts.thresholds)}

Kept: {_percent(facts.set_yield)} of the sets and {_percent(facts.image_yield)} of the images that were scored.
Images dropped, by reason: {_listed(facts.dropped_images) or "none"}.

## Categories
{table(("category", "sets"), facts.categories)}

## Reading it
WebDataset tars, listed with their sha256 in `index.json`. One sample is one set: `KEY.json` (the record), and for every
image in `samples` `KEY.INDEX.png` and its object mask `KEY.INDEX.mask.png` (255 on the object). Indexes of dropped
images are missing; `dropped` says why.

```python
{READING}```

`images.parquet` has a row for every image. `croissant.json` describes all of it as Croissant 1.1. mlcroissant keeps
archives that it has unpacked by their name, so give it a cache of its own for each dataset:

```python
{READING_CROISSANT}```

## Citation
{paragraph(facts.citation)}

## Maintenance
{paragraph(release["maintenance"] or "Not stated.")}
"""


def _refused(facts: CardFacts) -> str:
    if not facts.refused_licences:
        return "no set was dropped for its licence."
    return f"sets dropped for their licence: {_listed(facts.refused_licences)}."


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in counts.items())


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.1f} %"
