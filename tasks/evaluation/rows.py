"""The rows of an evaluation: what each of them is given, how it is guided, and what of the model takes part.

`base`: the text-to-image model, no references. `copy`: the first reference as it is: all identity, no text, what no
method should look like. `ours-N`: the checkpoint with N references under the recipe's guidance (Eq. 5.4 unless it says
otherwise); `plain-N`: the same with plain dual guidance. `dreambooth`: the base model with a LoRA tuned on all
references of the object, plain text guidance (models/tuning). Of U-Nets also:

- `ip_adapter`: the base model with its published IP-Adapter, the first reference as image prompt, classifier-free
  guidance as the IP-Adapter is sampled; `ip_adapter_guided`: the same under the recipe's guidance (thesis Table 5.4,
  "+ our guidance").
- `no_attention-N`, `no_mask-N`, `no_image-N`: `ours-N` with that part of the trained checkpoint switched off, so that
  references enter through the image tokens alone, show their backgrounds too, or enter through self-attention alone.
  Thesis Table 5.4 trains each variant instead: for that, train with `train.noised`, and compare the rows `ours-N`.
- `custom_diffusion`: the base model with the keys and values of text cross-attention and one token tuned likewise.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

from configs.evaluation import Evaluate, Guidance, RowKind
from configs.schema import ModelRef, Recipe
from configs.training import NoisedReferences, ReferenceForm
from models.evaluation.tables import KINDS

_, PROPERTY = KINDS
SWITCHES = ("attention", "image", "mask")
TUNED = {"dreambooth": "LoRA", "custom_diffusion": "text keys, values and a token"}
"""What of the base model a row tunes."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    kind: RowKind
    references: int | None
    """Given to the model; None: one row for every number in `evaluate.references`."""
    guidance: Literal["recipe", "plain", "text", "classifier_free"] = "recipe"
    """The recipe's; its plain form; of the text alone, at `base_text_scale`; u + s (f - u) with s = `base_text_scale`.
    """
    source: Literal["customizer", "references", "tuning"] = "customizer"
    """Who makes the images (tasks/evaluation/making.py)."""
    adapter: bool = True
    """Whether the trained weights take part."""
    attention: bool | None = None
    """Whether self-attention sees the references; None, here and below: as the checkpoint was trained."""
    image: bool | None = None
    """Whether the IP-Adapter takes part, with one of the references as its image if there are any."""
    mask: bool | None = None
    """Whether the keys of references' backgrounds are hidden."""
    counted: bool = False
    """Whether the name tells the number of references."""

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.references}" if self.counted else self.kind


ROWS: dict[str, Row] = {
    row.kind: row
    for row in (
        Row("base", 0, "text", adapter=False, image=False),
        Row("copy", 1, source="references", adapter=False),
        Row("ours", None),
        Row("plain", None, "plain"),
        Row("ip_adapter", 1, "classifier_free", adapter=False, attention=False, image=True),
        Row("ip_adapter_guided", 1, adapter=False, attention=False, image=True),
        Row("no_attention", None, attention=False),
        Row("no_mask", None, mask=False),
        Row("no_image", None, image=False),
        Row("dreambooth", 0, "text", source="tuning", adapter=False, image=False),
        Row("custom_diffusion", 0, "text", source="tuning", adapter=False, image=False),
    )
}


def rows_of(section: Evaluate) -> list[Row]:
    """Every kind that the recipe names, in its order, fewer references before more."""
    counts = sorted(set(section.references))
    rows = []
    for row in (ROWS[kind] for kind in section.rows):
        counted = [replace(row, references=count, counted=True) for count in counts]
        rows += counted if row.references is None else [row]
    return rows


def pairs_of(rows: Sequence[Row], external: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Rows worth comparing: ours with every other kind of the same references, more references with fewer; the
    IP-Adapter under both guidances; and ours with the most references with what was made elsewhere."""
    ours = [row for row in rows if row.kind == "ours"]
    others = [row for row in rows if row.kind not in ("ours", "copy")]
    pairs = [
        (own.name, other.name)
        for other in others
        for own in ours
        if not other.counted or other.references == own.references
    ]
    pairs += [(more.name, fewer.name) for fewer, more in pairwise(ours)]
    if {"ip_adapter", "ip_adapter_guided"} <= {row.kind for row in rows}:
        pairs.append(("ip_adapter_guided", "ip_adapter"))
    return pairs + [(ours[-1].name, name) for name in external if ours]


def guidance_of(section: Evaluate, row: Row, kind: str) -> Guidance:
    """How a row is guided; prompts that change a property may have an s_I of their own.

    Classifier-free guidance u + s (f - u) is plain dual guidance of s_I = s - 1 and s_c = s.
    """
    if row.guidance == "classifier_free":
        scale = section.base_text_scale
        return Guidance(form="plain", image_scale=scale - 1, text_scale=scale)
    changes: dict[str, Any] = {}
    if row.guidance != "recipe":
        changes["form"] = "plain"
    if row.guidance == "text":
        changes |= {"text_scale": section.base_text_scale, "text_scale_rise": 0.0}
    elif kind == PROPERTY and section.property_image_scale is not None:
        changes["image_scale"] = section.property_image_scale
    return section.guidance.model_copy(update=changes)


def form_of(trained: ReferenceForm, row: Row) -> ReferenceForm:
    """The form that a checkpoint was trained in, with what the row switches; other models than U-Nets have none."""
    if not isinstance(trained, NoisedReferences):
        return trained
    switched = {name: getattr(row, name) for name in SWITCHES if getattr(row, name) is not None}
    return trained.model_copy(update=switched)


def models_of(recipe: Recipe) -> dict[str, str]:
    """Row -> what makes its images: base model by name@revision, and what of it was trained."""
    ref, section, form = recipe.models.customizer, recipe.evaluate, recipe.train.reference_form
    base = f"{ref.name}@{ref.revision}"
    projected = isinstance(form, NoisedReferences) and form.image
    trained = f"{'LoRA and image projections' if projected else 'LoRA'} on {base}"
    return {row.name: _model(row, base, trained) for row in rows_of(section)} | {
        name: "made elsewhere" for name in sorted(section.external)
    }


def _model(row: Row, base: str, trained: str) -> str:
    if row.source == "references":
        return "none"
    if row.source == "tuning":
        return f"{TUNED[row.kind]} of {base}, tuned on each object"
    if not row.adapter:
        return f"{base} with its own IP-Adapter" if row.image else base
    off = [name for name in SWITCHES if getattr(row, name) is False]
    return f"{trained}, {off[0]} switched off" if off else trained


def backbones(recipe: Recipe) -> dict[str, str]:
    """Metric -> name@revision of the models that it comes from."""
    section, models = recipe.evaluate, recipe.models
    finder = _named(models.segmenter)
    if models.detector is not None:
        finder = f"{_named(models.detector)} and {finder}"
    found = f"objects found by {finder}"
    answerer = models.vqa if section.text_metric == "tifa" else models.clip
    whole = {
        "clip_score": _named(models.clip),
        "clip_i": _named(models.clip),
        "dino": _named(models.dino),
        "dinov2_i": _named(models.identity),
        "copy_paste": f"{_named(models.identity)}, {found}",
        "diversity": _named(models.identity),
    }
    return {
        "identity": f"{_named(models.identity)}, {found}",
        "text": f"{section.text_metric} by {_named(answerer)}",
        **{name: model for name, model in whole.items() if name in section.metrics},
    }


def _named(ref: ModelRef | None) -> str:
    return "none" if ref is None else f"{ref.name}@{ref.revision}"
