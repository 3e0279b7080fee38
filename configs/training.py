"""The train section of a recipe."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.section import Budget, Count, Section, Share


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

    @property
    def needs_masks(self) -> bool:
        """Whether references come with object masks."""
        return self.attention and self.mask

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
