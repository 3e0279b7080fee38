"""The evaluate section of a recipe: guidance, rows, tuning and metrics."""

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from configs.section import Budget, Count, Section, Share


class Guidance(Section):
    """How the predictions of a customization model are combined at a denoising step (models/guidance.py)."""

    form: Literal["normalised", "plain", "projected"] = Field(
        "normalised",
        description="normalised: thesis Eq. 5.4; plain: the same without normalising; projected: adaptive projected "
        "guidance (Sadat et al. 2024)",
    )
    image_scale: Annotated[float, Field(ge=0, le=100)] = Field(1.0, description="s_I of Eq. 5.4, at the first step")
    image_scale_rise: Annotated[float, Field(ge=-100, le=100)] = Field(
        0.0, description="by how much s_I grows, linearly, from the first step to the last (thesis C.1.2)"
    )
    text_scale: Annotated[float, Field(ge=0, le=100)] = Field(
        1.5, description="s_c of Eq. 5.4; without references the scale of plain text guidance"
    )
    text_scale_rise: Annotated[float, Field(ge=-100, le=100)] = Field(0.0, description="the same for s_c")
    rescale: Share = Field(
        0.0,
        description="share of the guided prediction that is brought to the deviation of the one with references and "
        "text (Lin et al. 2023, section 3.4)",
    )
    interval: tuple[Share, Share] = Field(
        (0.0, 1.0),
        description="noise levels, as a share of the highest, that are guided; elsewhere the prediction is the one "
        "with references and text (Kynkaanniemi et al. 2024)",
    )
    parallel: Share = Field(
        0.0, description="projected: share kept of the part along the predicted image, which is what saturates (eta)"
    )
    longest: Annotated[float, Field(ge=0, le=100)] = Field(
        0.0, description="projected: limit of a guidance vector's norm per latent value, in predicted images; 0: none"
    )

    @model_validator(mode="after")
    def _scales(self) -> "Guidance":
        if not self.interval[0] < self.interval[1]:
            raise ValueError(f"interval is {list(self.interval)}; allowed: two numbers from 0 to 1, the smaller first")
        for name in ("image_scale", "text_scale"):
            scale, rise = getattr(self, name), getattr(self, f"{name}_rise")
            if scale + rise < 0:
                raise ValueError(f"{name} {scale:g} falls below 0 with {name}_rise {rise:g}; let it fall by less")
        return self


class Tuning(Section):
    """A base model tuned on the references of one object (models/tuning), from a class noun and an identifier."""

    token: str = Field(description="identifier: a rare word that every tokenizer of the model knows")
    prompt: str = Field(description="caption of a reference, with {token} and {noun}; without {token} of a class image")
    steps: Count
    batch: Count = Field(description="references per step, with as many class images beside them")
    learning_rate: Annotated[float, Field(gt=0, le=10)]
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 1e-2
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    prior_images: Annotated[int, Field(ge=0, le=10000)] = Field(
        description="class images that the base model makes, so that it forgets nothing; 0: none"
    )
    prior_weight: Annotated[float, Field(ge=0, le=100)] = Field(1.0, description="of their loss beside the references'")

    @model_validator(mode="after")
    def _captions(self) -> "Tuning":
        if "{token} {noun}" not in self.prompt:
            raise ValueError(
                f"prompt is {self.prompt!r}; it must hold '{{token}} {{noun}}', as in 'a {{token}} {{noun}}'"
            )
        return self


class DreamBooth(Tuning):
    """DreamBooth (Ruiz et al. 2023) with a LoRA, as diffusers' train_dreambooth_lora scripts are published."""

    token: str = "sks"
    prompt: str = "a {token} {noun}"
    steps: Count = 500
    batch: Count = 4
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 1e-4
    rank: Annotated[int, Field(ge=1, le=1024)] = 4
    prior_images: Annotated[int, Field(ge=0, le=10000)] = 0


class CustomDiffusion(Tuning):
    """Custom Diffusion (Kumari et al. 2023): 250 steps of 8 images at 8e-5, 200 regularisation images."""

    token: str = Field("ktn", description="rare word that the new modifier token starts from; one token")
    prompt: str = "photo of a {token} {noun}"
    steps: Count = 250
    batch: Count = 8
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 8e-5
    prior_images: Annotated[int, Field(ge=0, le=10000)] = 200


Metric = Literal["clip_score", "clip_i", "dino", "dinov2_i", "copy_paste", "diversity"]
RowKind = Literal[
    "base",
    "copy",
    "ours",
    "plain",
    "ip_adapter",
    "ip_adapter_guided",
    "no_attention",
    "no_mask",
    "no_image",
    "dreambooth",
    "custom_diffusion",
]
"""Rows that an evaluation can make; tasks/evaluation/rows.py says what each of them does."""


class Evaluate(Budget):
    benchmark: Literal["held_out", "dreambooth", "customconcept101", "dreambench_plus"] = Field(
        "held_out", description="held_out: objects of the dataset that were held out of training"
    )
    benchmark_folder: str | None = Field(None, description="where a published benchmark is, as it is published")
    reference_masks: str | None = Field(
        None, description="benchmark: folder of OBJECT/REFERENCE.png, non-zero on the object; none: found by models"
    )
    reference_cut: Literal["middle", "object"] = Field(
        "middle",
        description="benchmark: references are their middle square, or a square around the object, as those of "
        "train.reference_crops are",
    )
    resolution: Annotated[int, Field(ge=32, le=2048, multiple_of=16)] = Field(
        512, description="benchmark: side of references and images; held_out has render's"
    )
    rows: Annotated[tuple[RowKind, ...], Field(min_length=1)] = Field(
        ("base", "copy", "ours", "plain"),
        description="lines of the table (tasks/evaluation/rows.py); most have one for every number in references",
    )
    external: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.+]*$")], str] = Field(
        {}, description="row -> folder of images made elsewhere: OBJECT/pPROMPT.sSEED.png, or a manifest.csv or .json"
    )
    objects: Annotated[int, Field(ge=0)] = Field(0, description="held-out objects to use, 0 for all")
    references: Annotated[tuple[Annotated[int, Field(ge=1, le=16)], ...], Field(min_length=1)] = (1, 3)
    identity_references: Annotated[int, Field(ge=0, le=16)] = Field(
        0,
        description="held_out: references that identity is measured against, in every row alike; 0: the most that any "
        "row is given. Of a benchmark it is all",
    )
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    steps: Annotated[int, Field(ge=2, le=200)] = 30
    guidance_scale: Annotated[float, Field(ge=0, le=50)] = Field(3.5, description="embedded (distilled) guidance")
    guidance: Guidance = Field(Guidance(), description="of the customization model; rows plain-N have its plain form")
    property_image_scale: Annotated[float, Field(ge=0, le=100)] | None = Field(
        None, description="s_I at the first step for prompts that change a property; none: that of all prompts"
    )
    base_text_scale: Annotated[float, Field(ge=0, le=50)] = Field(
        1.5,
        description="text guidance of the base row, which has no image guidance beside it; classifier-free guidance of "
        "ip_adapter",
    )
    dreambooth: DreamBooth = Field(DreamBooth(), description="how the row dreambooth is tuned")
    custom_diffusion: CustomDiffusion = Field(CustomDiffusion(), description="how the row custom_diffusion is tuned")
    backdrop: Literal["grey", "scenes"] = Field(
        "grey", description="behind rendered references: plain grey, or the miniature world's painted scenes"
    )
    text_metric: Literal["clip_facts", "clip_score", "tifa"] = Field(
        "clip_score",
        description="clip_facts: share of the prompt's multiple-choice facts that CLIP answers right; tifa: share of "
        "questions about the prompt that models.vqa answers right",
    )
    questions: str | None = Field(
        None, description="tifa: JSON file of questions by caption; none: models.writer writes them"
    )
    metrics: tuple[Metric, ...] = Field(
        ("clip_score", "clip_i", "dinov2_i", "copy_paste", "diversity"),
        description="beside identity (MDINOv2-I), text and their geometric mean, which are always there",
    )
    phrases: dict[str, str] = Field({}, description="object -> what the detector looks for, instead of its category")
    detection_threshold: Share = Field(0.25, description="score above which a detection counts")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of the customization model")
    batch_images: Count = 16

    @model_validator(mode="after")
    def _rows(self) -> "Evaluate":
        repeated = [row for row in self.rows if self.rows.count(row) > 1]
        if repeated:
            raise ValueError(f"evaluate.rows names {repeated[0]} more than once; name it once")
        rise, start = self.guidance.image_scale_rise, self.property_image_scale
        if start is not None and start + rise < 0:
            raise ValueError(
                f"evaluate.property_image_scale {start:g} falls below 0 with evaluate.guidance.image_scale_rise "
                f"{rise:g}; let it fall by less"
            )
        taken = sorted(set(get_args(RowKind)) & set(self.external))
        if taken:
            raise ValueError(f"evaluate.external names a row {taken[0]}, as the evaluation's own is called; rename it")
        return self
