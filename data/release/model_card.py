"""MODEL_CARD.md: what a checkpoint was trained from, under which terms it stands, and how to use it."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.schema import ModelRef
from configs.training import Train
from data.assets.licences import UNKNOWN
from data.release.licensing import Input, OutputLicence, base_model, conclude
from data.release.terms import terms_of
from data.release.words import bullets, front_matter, hub_licence, licence_section, paragraph, table
from data.shards import ShardError, ShardIndex, verify_file

LOADING = """\
from pathlib import Path

from tasks.sample import CustomizationPipeline, save_png

pipeline = CustomizationPipeline.from_checkpoint("pytorch_lora_weights.safetensors")
made = pipeline("a mug on a beach", references=["a.png", "b.png"], seed=3)
save_png(made.images[0], made.provenance[0], Path("mug.png"))  # marked as synthetic
"""
"""Makes an image from inside the checkpoint's folder; printed in the card."""

MINIATURE = (
    "**This checkpoint belongs to the miniature**, small networks on a procedural world that show and test the "
    "pipeline. No figure of it says anything about the real models."
)
USE = (
    "Making images of an object that reference images show, in a scene that words describe; studying such models.",
    "Not meant for pictures of real people, nor for passing generated pictures off as photographs: `syncd sample` "
    "marks what it makes as synthetic (IPTC digital source type), and the mark should stay.",
)
LIMITATIONS = (
    "It was trained on synthetic images alone, except where text-image pairs are named above: looks, scenes and biases "
    "are those of the generator, the assets and the selection, which the dataset card describes.",
    "It keeps an object alike, not the same to the last detail; small print, faces and fine patterns suffer most.",
    "Categories that the dataset lacks are served worse.",
)
TRACED = (
    "`ledger.jsonl` names the sets and shards, by digest, that every step was trained on; the header of the weights "
    "holds the dataset's digest. `syncd verify` follows both back to every asset."
)
EVALUATION = (
    "The evaluate stage of the run writes `artifacts/evaluate/table.md`, with intervals and the model behind every "
    "number. `syncd evaluate --checkpoint pytorch_lora_weights.safetensors --workspace DIR` measures the file alone."
)
_HUB_DATASET = re.compile(r"https://huggingface\.co/datasets/([^/\s]+/[^/\s]+?)/?")


@dataclass(frozen=True)
class Training:
    """What a checkpoint comes from, and the numbers of its run."""

    section: Train
    seed: int
    base: ModelRef
    dataset: dict[str, Any]
    """card.json of the dataset."""
    dataset_sha256: str
    recipe_sha256: str
    height: int
    width: int
    summary: dict[str, Any]
    """Of the stage: steps, losses, samples and sets seen."""


def dataset_card(folder: Path, index: ShardIndex) -> dict[str, Any]:
    """card.json of a published dataset, if it is the one that its index vouches for; else ShardError."""
    for entry in index.files:
        if entry.name == "card.json":
            verify_file(folder / entry.name, entry.bytes, entry.sha256)
            return json.loads((folder / entry.name).read_bytes())
    raise ShardError(
        f"{folder / 'index.json'}: lists no card.json, which holds the dataset's licence; run the shard stage again"
    )


def licence_of(training: Training) -> OutputLicence:
    """Of the checkpoint, a modified version of its base that was trained on the dataset."""
    base, own = training.base, OutputLicence(**training.dataset["licence"])
    inputs = [
        base_model(f"{base.name}@{base.revision}", base.licence),
        Input(f"dataset {training.dataset['title']}", own.expression, own.terms, "dataset"),
    ]
    if training.section.pairs is not None:
        inputs.append(Input("text-image pairs", UNKNOWN, terms_of(UNKNOWN), "dataset"))
    return conclude(inputs)


def model_card(training: Training) -> str:
    base, section, dataset, summary = training.base, training.section, training.dataset, training.summary
    licence, recipe = licence_of(training), dataset["recipe"]
    miniature = base.source.startswith("miniature:") or dataset["miniature"]
    hub_id = base.source.removeprefix("hub:") if base.source.startswith("hub:") else None
    published = _HUB_DATASET.fullmatch(dataset["release"]["url"] or "")
    own_licence = dataset["licence"]["expression"]
    assets = ", ".join(f"{name}: {count}" for name, count in dataset["licences"].items())
    matter = {
        **({"base_model": hub_id, "base_model_relation": "adapter"} if hub_id else {"base_model": base.name}),
        **hub_licence(licence.expression, "MODEL_CARD.md"),
        **({"datasets": [published[1]]} if published else {}),
        "library_name": "diffusers",
        "pipeline_tag": "image-to-image",
        "tags": ["text-to-image", "image-customization", "lora", "synthetic", *(["miniature"] if miniature else [])],
    }
    facts = {
        "base model": f"{base.name}, {base.source}, revision {base.revision}, {base.licence}",
        "dataset": f"{dataset['title']} {dataset['release']['version']}, {dataset['sets']} sets, {dataset['images']} "
        f"images, {own_licence}",
        "dataset digest": f"sha256 {training.dataset_sha256} of its index.json",
        "text-image pairs": _pairs(section, summary),
        "recipe": f"{recipe}, seed {training.seed}, sha256 {training.recipe_sha256}",
        "trained": f"LoRA of rank {section.lora_rank} on {section.lora_targets.replace('_', ' and ')}",
        "references": f"{section.references}, up to {section.max_references}",
        "images": f"{training.height} x {training.width} px",
        "steps": f"{summary['steps']} of batch {section.batch} x {section.accumulate}, {section.optimizer}, "
        f"learning rate {section.learning_rate:g}",
        "seen": f"{summary['samples_seen']} samples of {summary['sets_seen']} sets{_skipped(summary)}",
        "loss": f"{summary['loss_first_tenth']:.4f} in the first tenth, {summary['loss_last_tenth']:.4f} in the last",
    }
    return f"""{front_matter(matter)}
# Customization model, {recipe}

A LoRA that lets a text-to-image model place an object, seen in reference images, into new scenes.
{_lines(paragraph(MINIATURE)) if miniature else ""}
{table(("", ""), facts)}

{paragraph(TRACED)}

## Licence
{licence_section(licence)}

{paragraph(f"Licences of the assets behind the dataset, in objects: {assets}. Credit is in its `ATTRIBUTION.md`.")}

## Use
{bullets(USE)}

```python
{LOADING}```

diffusers loads the file as well (`load_lora_weights`); what makes references enter attention is in SynCD.

## Evaluation
{paragraph(EVALUATION)}

## Limitations
{bullets(LIMITATIONS)}
"""


def _pairs(section: Train, summary: dict[str, Any]) -> str:
    if section.pairs is None:
        return "none"
    return f"{summary['pairs']}, {summary['pairs_seen']} seen, listed in pairs.json; their terms are not known here"


def _skipped(summary: dict[str, Any]) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in summary.get("images_skipped", {}).items())
    return f", images skipped: {reasons}, listed in skipped.json" if reasons else ""


def _lines(text: str) -> str:
    return f"\n{text}\n"
