"""Types of recipes (what determines bytes) and runtimes (what does not): every key, its range and its meaning."""

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from configs.consistency import check

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelRef(Section):
    """One model, named once: where it comes from and exactly which bytes."""

    name: str
    architecture: str = Field(description="key of a loader in models/registry.py or models/customizer.py")
    source: str = Field(description="miniature:FOLDER, hub:OWNER/NAME, folder:PATH, or server:NAME-IT-GOES-BY")
    revision: str = Field(description="hub commit, or sha256 of the folder; of a server what its operator says")
    licence: str
    fetch: str | None = Field(None, description="command that gets it, for a folder that nobody has yet")


class Models(Section):
    licences: tuple[str, ...] = Field(description="SPDX allow-list that every model must be in")
    generator: ModelRef = Field(description="makes the image sets")
    customizer: ModelRef = Field(description="text-to-image base that the customization model is trained from")
    clip: ModelRef = Field(description="CLIP: image and text scores")
    quality: ModelRef = Field(description="aesthetic head on the CLIP image embedding")
    identity: ModelRef = Field(description="DINOv2: identity scores")
    dino: ModelRef | None = Field(None, description="the first DINO, for the metric of that name")
    segmenter: ModelRef | None = Field(
        None, description="masks of objects in generated images; SAM (architecture sam) needs models.detector"
    )
    detector: ModelRef | None = Field(None, description="finds the box of an object by its name, for SAM")
    vqa: ModelRef | None = Field(None, description="answers questions about images; for text_metric tifa")
    writer: ModelRef | None = Field(None, description="language model that writes prompts; the grammar needs none")

    @property
    def by_role(self) -> dict[str, ModelRef]:
        return {role: ref for role, ref in self if isinstance(ref, ModelRef)}

    @model_validator(mode="after")
    def _licences_allowed(self) -> "Models":
        refused = sorted(
            {f"{ref.name} ({ref.licence})" for ref in self.by_role.values() if ref.licence not in self.licences}
        )
        if refused:
            raise ValueError(
                f"models.licences allows {', '.join(self.licences)}, but not {', '.join(refused)}; name another model, "
                "or add the licence to the list if its terms suit the use"
            )
        return self


class Budget(Section):
    max_failed_fraction: Share = Field(0.1, description="share of failed keys above which the stage fails")
    shard_size: Count = Field(32, description="keys per shard")


class Assets(Budget):
    source: Literal["miniature", "folder", "objaverse", "subjects"]
    count: Annotated[int, Field(ge=0)] = Field(0, description="objects to take, 0 for all that the source has")
    eval_share: Share = Field(0.2, description="share of objects held out for evaluation, chosen on ids")
    split_seed: int = Field(0, description="seed of the held-out choice; the miniature's nets were trained with 0")
    licences: tuple[str, ...] = Field(description="SPDX allow-list")
    default_licence: str | None = Field(None, description="licence of folder meshes that name none")
    folder: str | None = Field(None, description="folder source: where the meshes are")
    captions: str | None = Field(None, description="captions file; folder source: captions.csv in the folder")
    caption_detail: Literal["full", "open", "category"] = Field(
        "open",
        description="miniature source: open captions leave colours out, so that identity is not decided by text",
    )
    described: bool = Field(
        False, description="miniature source: objects come in words alone, without mesh, as those of subjects do"
    )
    categories: tuple[str, ...] = Field((), description="miniature source: categories to take, none for all")
    subjects: dict[str, tuple[str, ...]] = Field(
        {}, description="subjects source: category -> its kinds, for example cat: [siamese]; none: the category itself"
    )
    per_kind: Count = Field(1, description="subjects source: objects of every kind")
    uids: str | None = Field(None, description="objaverse source: file with one uid a line; default the LVIS subset")
    digests: str | None = Field(None, description="objaverse source: CSV uid,sha256 of the expected files")

    @model_validator(mode="after")
    def _folder_named(self) -> "Assets":
        if self.source == "folder" and not self.folder:
            raise ValueError("assets.folder is not set; the folder source needs the path of a folder of meshes")
        if self.described and self.source != "miniature":
            raise ValueError(f"assets.described is true; allowed for the miniature source only, not for {self.source}")
        return self

    @property
    def in_words(self) -> bool:
        """Whether objects are described in words and have no mesh: the deformable branch."""
        return self.described or self.source == "subjects"


class Prompts(Budget):
    writer: Literal["grammar", "transformers", "openai"] = Field(
        "grammar", description="transformers: models.writer in this process; openai: a server (runtime llm_base_url)"
    )
    scenes: Annotated[int, Field(ge=0, le=100)] = Field(5, description="'in different scenes' prompts per object")
    other_object: Annotated[int, Field(ge=0, le=100)] = Field(5, description="'with another object' prompts")
    style: Annotated[int, Field(ge=0, le=100)] = Field(0, description="'made in another way' prompts per object")
    eval_background: Annotated[int, Field(ge=0, le=100)] = Field(2, description="prompts per held-out object")
    eval_property: Annotated[int, Field(ge=0, le=100)] = Field(2, description="prompts per held-out object")
    max_rounds: Count = Field(4, description="how often rejected captions are asked for again")
    min_words: Count = 4
    max_words: Count = 60
    temperature: Annotated[float, Field(ge=0, le=2)] = Field(0.6, description="of the language model; 0: likeliest")
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    max_new_tokens: Annotated[int, Field(ge=16, le=32768)] = 2048
    batch_chats: Count = Field(16, description="chats that a local language model answers together")
    dtype: Literal["float32", "bfloat16"] = Field("bfloat16", description="of a local language model")


class Render(Budget):
    resolution: Annotated[int, Field(ge=32, le=2048, multiple_of=16)] = 64
    candidate_views: Annotated[int, Field(ge=2, le=64)] = Field(8, description="views that sets are chosen from")
    views_per_set: Annotated[int, Field(ge=2, le=8)] = Field(3, description="K")
    max_sets: Annotated[int, Field(ge=1, le=16)] = Field(1, description="sets per object")
    max_elevation_deg: Annotated[float, Field(gt=0, lt=90)] = 70.0
    fov_deg: Annotated[float, Field(gt=5, lt=120)] = 40.0
    min_overlap: Share = Field(0.10, description="smallest share of the grid that must correspond, in every pair")
    overlap_grid: Annotated[int, Field(ge=8, le=512)] = 128
    tolerance: Annotated[float, Field(gt=0, le=0.2)] = Field(0.01, description="depth agreement, unit box")
    min_area: Share = Field(0.10, description="smallest object share of the frame before placement")
    max_faces: Count = Field(2_000_000, description="meshes with more faces are refused")


class Generate(Budget):
    steps: Annotated[int, Field(ge=2, le=200)] = 30
    guidance_scale: Annotated[float, Field(ge=0, le=50)] = Field(10.0, description="embedded (distilled) guidance")
    true_cfg_scale: Annotated[float, Field(ge=1, le=30)] = 2.5
    cfg_start_step: Annotated[int, Field(ge=0)] = Field(1, description="first step with the negative prompt")
    negative_prompt: str = "3d render, low resolution, blurry, cartoon, illustration"
    prompt_suffix: str = Field(
        "", description="a sentence behind every prompt, for example to put the object on the ground"
    )
    appearance: bool = Field(True, description="objects without mesh: tell the model what they look like, in words")
    mask_words: Literal["noun", "appearance"] = Field(
        "noun", description="objects without mesh: words whose attention gives the mask; the paper has the noun"
    )
    msa: bool = True
    msa_first_step: Literal["full", "masked"] = "full"
    mask_dilation: Literal[1, 3, 5, 7, 9, 11, 13, 15] = Field(1, description="side of the window, in tokens")
    rope: Literal["release", "stacked"] = "release"
    warp: Literal["none", "latents", "features"] = "latents"
    warp_share: Share = Field(0.2, description="share of the steps that warp, from the first")
    correspondence_grid: Annotated[int, Field(ge=8, le=512)] = 128
    depth: bool = Field(True, description="condition on rendered depth")
    dtype: Literal["float32", "bfloat16"] = "float32"
    batch_sets: Count = Field(4, description="sets denoised together")
    vae_tiling: bool = Field(False, description="decode in blended tiles: less memory, slightly other pixels")


class Score(Budget):
    batch_images: Count = 64


class Select(Budget):
    min_quality: Annotated[float, Field(ge=-10, le=20)] = 6.0
    min_identity: Annotated[float, Field(ge=-1, le=1)] = 0.7
    max_identity: Annotated[float, Field(ge=-1, le=1)] = Field(0.98, description="near-duplicates lie above")
    min_text: Annotated[float, Field(ge=-1, le=1)] = Field(-1.0, description="CLIP cosine to the prompt; -1: any")
    max_background: Annotated[float, Field(ge=-1, le=1)] = Field(
        1.0, description="similarity of two backgrounds of a set: the context must change; 1: any"
    )
    max_clipped: Share = Field(1.0, description="share of values that are 0 or 255; 1: any")
    max_saturation: Share = Field(1.0, description="mean HSV saturation; 1: any")
    min_area: Share = Field(0.0, description="object share of the frame; 0: any")
    max_cut_off: Share = Field(1.0, description="share of the object's outline on the border of the frame; 1: any")
    max_hash_distance: Annotated[int, Field(ge=-1, le=8)] = Field(
        -1,
        description="bits in which images of two sets that are nearly the same may differ; -1: sets are not compared",
    )
    min_images: Annotated[int, Field(ge=2)] = 2


class Shard(Budget):
    title: str = "SynCD"
    sets: Annotated[int, Field(ge=0)] = Field(
        0, description="sets to publish, a seeded choice of the kept ones that larger ones contain; 0: all"
    )
    categories: Annotated[int, Field(ge=0)] = Field(
        0, description="categories to take them from, chosen in the same way; 0: all"
    )


class NoisedReferences(Section):
    """How references enter a U-Net; what a checkpoint was trained with, it is sampled with."""

    attention: bool = Field(
        True,
        description="self-attention sees the references; false: they enter through the image tokens alone (thesis "
        "Table 5.4, + SynCD)",
        exclude_if=lambda value: value,
    )
    image: bool = Field(
        True,
        description="image cross-attention sees one of the references; false: the IP-Adapter is off",
        exclude_if=lambda value: value,
    )
    mask: bool = Field(True, description="hide the keys of references' backgrounds")
    mask_dilation: Literal[1, 3, 5, 7, 9, 11, 13, 15] = Field(
        5, description="side of the window, in latents, that object masks grow by"
    )
    ip_adapter_scale: Annotated[float, Field(ge=0, le=2)] = Field(
        0.6, description="weight of the image cross-attention beside that of the text"
    )

    @model_validator(mode="after")
    def _enter(self) -> "NoisedReferences":
        if not (self.attention or self.image):
            raise ValueError("train.noised has attention and image false; references need one of them to enter through")
        return self


class Train(Budget):
    steps: Count = 15000
    batch: Count = 8
    accumulate: Count = 1
    optimizer: Literal["adamw", "prodigy"] = "prodigy"
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 1.0
    learning_rate_decay: Literal["none", "linear"] = Field("none", description="linear: falls to 0 after the last step")
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 1e-4
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    lora_rank: Annotated[int, Field(ge=1, le=1024)] = 32
    lora_targets: Literal["attention", "attention_feedforward", "self_attention"] = Field(
        "attention", description="self_attention: of a U-Net, whose image keys and values are trained with it"
    )
    max_references: Annotated[int, Field(ge=1, le=8)] = Field(
        2, description="1 to this many, per training sample; sets with fewer other images reuse some flipped"
    )
    reference_crops: Annotated[int, Field(ge=0, le=64)] = Field(
        0,
        description="jittered squares around the object that are kept of every image, of which a reference is one; "
        "0: references are whole images",
        exclude_if=lambda value: value == 0,
    )
    pairs: str | None = Field(
        None,
        description="text-image pairs to mix in: a folder of WebDataset tars or one tar, pictures with captions",
        exclude_if=lambda value: value is None,
    )
    pairs_share: Share = Field(
        0.0, description="share of the training examples that are such pairs", exclude_if=lambda value: value == 0
    )
    references: Literal["separate", "joint", "noised"] = Field(
        "separate",
        description="separate: references attend to themselves only, clean, at timestep 0; noised: to the target's "
        "timestep, which is the form of U-Nets and theirs alone",
    )
    noised: NoisedReferences | None = Field(
        None, description="details of noised references", exclude_if=lambda value: value is None
    )
    drop_text: Share = 0.05
    drop_image: Share = 0.05
    drop_both: Share = 0.05
    checkpoint_every: Count = 500
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="the checkpoint is a moving average of the weights, warmed up to this decay; 0: the last ones"
    )
    processes: Annotated[int, Field(ge=1, le=1024)] = Field(
        1, description="that share every batch, on a GPU each; another number adds gradients in another order"
    )
    parallel: Literal["ddp", "fsdp"] = Field(
        "ddp", description="of several processes: each has the whole base model, or a part of it (FLUX)"
    )
    log_every: Count = 10
    dtype: Literal["float32", "bfloat16"] = "float32"

    @model_validator(mode="after")
    def _processes(self) -> "Train":
        if self.batch % self.processes:
            raise ValueError(
                f"train.batch is {self.batch} and train.processes is {self.processes}; the batch is all processes' "
                "together, so it must be a multiple"
            )
        if self.parallel == "fsdp" and self.processes == 1:
            raise ValueError("train.parallel is fsdp and train.processes is 1; one process has nothing to share with")
        return self

    @model_validator(mode="after")
    def _shares(self) -> "Train":
        dropped = self.drop_text + self.drop_image + self.drop_both
        if dropped > 1:
            raise ValueError(
                f"train.drop_text + train.drop_image + train.drop_both is {dropped:g}; allowed: at most 1, since they "
                "exclude each other"
            )
        return self

    @model_validator(mode="after")
    def _pairs(self) -> "Train":
        if (self.pairs is not None) != (self.pairs_share > 0):
            raise ValueError(
                f"train.pairs is {'not set' if self.pairs is None else self.pairs} and train.pairs_share is "
                f"{self.pairs_share:g}; pairs need both, a path and a share above 0, and a run without them neither"
            )
        return self

    @model_validator(mode="after")
    def _form(self) -> "Train":
        noised = self.references == "noised"
        if noised != (self.lora_targets == "self_attention"):
            raise ValueError(
                f"train.references is {self.references} and train.lora_targets is {self.lora_targets}; a U-Net takes "
                "noised and self_attention, other models neither"
            )
        if noised != (self.noised is not None):
            state = "not set; write its settings there, {} for the usual ones" if noised else "set; allowed with noised"
            raise ValueError(f"train.references is {self.references} and train.noised is {state}")
        return self

    @property
    def reference_form(self) -> "ReferenceForm":
        return self.noised or self.references


ReferenceForm = Literal["separate", "joint"] | NoisedReferences
"""What a customization model is told of how references enter its attention."""


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
    resolution: Annotated[int, Field(ge=32, le=2048, multiple_of=16)] = Field(
        512, description="benchmark: side of references (their middle square) and images; held_out has render's"
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
        taken = sorted(set(get_args(RowKind)) & set(self.external))
        if taken:
            raise ValueError(f"evaluate.external names a row {taken[0]}, as the evaluation's own is called; rename it")
        return self


class Report(Section):
    max_sets: Count = Field(24, description="contact sheets shown")


class Recipe(Section):
    """Everything that determines bytes."""

    name: str
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    models: Models
    assets: Assets
    prompts: Prompts
    render: Render
    generate: Generate
    score: Score
    select: Select
    shard: Shard
    train: Train
    evaluate: Evaluate
    report: Report

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        check(self)
        return self


class Runtime(Section):
    """How to run: nothing here may change a byte of the result."""

    runner: Literal["thread", "process"] = "process"
    workers: Annotated[int, Field(ge=1, le=1024)] = 2
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:[0-9]+)?)$")] = Field(
        "auto", description="auto, cpu, cuda, or cuda:N; process workers share the GPUs round-robin"
    )
    threads_per_worker: Annotated[int, Field(ge=0)] = Field(
        0, description="torch threads; 0: cores / shards of the stage, at least 1, so that workers change no byte"
    )
    offload: Literal["none", "text_encoders", "all"] = Field(
        "none", description="generation: which parts of a model are on the device only while they work"
    )
    gradient_checkpointing: bool = Field(
        False, description="training: compute activations again instead of keeping them; less memory, a third slower"
    )
    keep_checkpoints: Count = Field(2, description="training: the newest so many are kept to resume from")
    trackers: tuple[str, ...] = Field(
        (), description="training: trackers of accelerate that follow it, for example tensorboard or wandb"
    )
    peak_tflops: Annotated[float, Field(gt=0)] | None = Field(
        None, description="training: dense peak of one device, for its utilisation; default: known for common GPUs"
    )
    retries: Annotated[int, Field(ge=0, le=20)] = Field(2, description="per shard, for transient errors only")
    max_tasks_per_worker: Annotated[int, Field(ge=0)] = Field(0, description="recycle a worker process; 0: never")
    min_free_disk_gb: Annotated[float, Field(ge=0)] = 1.0
    objaverse_cache: str | None = Field(None, description="folder of the objaverse package; default ~/.objaverse")
    offline: bool = Field(True, description="never touch the network, but for llm_base_url if it is set")
    llm_base_url: str | None = Field(
        None, description="address of a server that speaks OpenAI's protocol, for example http://127.0.0.1:8000/v1"
    )
    llm_key_variable: str = Field("OPENAI_API_KEY", description="environment variable that holds the server's key")
    llm_concurrency: Annotated[int, Field(ge=1, le=1024)] = Field(8, description="requests at a time, per worker")
    llm_retries: Annotated[int, Field(ge=0, le=100)] = Field(6, description="per request, with growing pauses")
    llm_timeout_s: Annotated[float, Field(gt=0, le=3600)] = Field(120.0, description="per request")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    prefect_api_url: str | None = Field(None, description="a running Prefect server; default an ephemeral one")
