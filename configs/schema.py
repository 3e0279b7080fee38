"""Types of recipes (what determines bytes) and runtimes (what does not): every key, its range and its meaning."""

import datetime
from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.consistency import check, check_runtime
from configs.evaluation import Evaluate
from configs.promotion import Promotion
from configs.section import Budget, Count, Section, Share
from configs.training import Train


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
    licences: tuple[str, ...] | None = Field(
        None, description="SPDX allow-list of what is published, out of assets.licences; default: all of these"
    )
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


class Release(Section):
    """What only people can say of a published dataset; its card and croissant.json print it. Nothing is made up."""

    version: Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$")] = Field(
        "0.1.0", description="of the dataset, MAJOR.MINOR.PATCH"
    )
    date: datetime.date | None = Field(None, description="of publication, YYYY-MM-DD")
    creator: str | None = Field(None, description="person or organization that answers for the dataset")
    contact: str | None = Field(None, description="where questions and requests to take something out go")
    url: str | None = Field(None, description="address that the dataset will have")
    citation: str | None = Field(None, description="how to cite the dataset; default: the paper of the method")
    intended_use: tuple[str, ...] = Field((), description="default: training and studying image customization")
    limitations: tuple[str, ...] = Field((), description="beyond those that hold for every dataset made here")
    biases: tuple[str, ...] = Field((), description="beyond those that hold for every dataset made here")
    maintenance: str | None = Field(None, description="who maintains it, how long, and what happens to old versions")


class Shard(Budget):
    title: str = "SynCD"
    sets: Annotated[int, Field(ge=0)] = Field(
        0, description="sets to publish, a seeded choice of the kept ones that larger ones contain; 0: all"
    )
    categories: Annotated[int, Field(ge=0)] = Field(
        0, description="categories to take them from: those with the most kept sets; 0: all"
    )
    release: Release = Release()


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
    promotion: Promotion = Promotion()

    @property
    def published_licences(self) -> tuple[str, ...]:
        """The allow-list that sets are selected and published by."""
        return self.assets.licences if self.select.licences is None else self.select.licences

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        check(self)
        return self


class Runtime(Section):
    """How to run: nothing here may change a byte of the result."""

    runner: Literal["thread", "process", "dask", "ray"] = "process"
    workers: Annotated[int, Field(ge=1, le=1024)] = Field(
        2, description="shards at a time on this machine; a cluster that is there already has its own number"
    )
    cluster: str | None = Field(
        None,
        description="dask: tcp://HOST:8786 or tls://HOST:8786; ray: HOST:6379, or auto on one of its machines; "
        "default: workers of this machine",
    )
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
    prefetch_shards: Annotated[int, Field(ge=0, le=64)] = Field(
        4, description="training: shards fetched before their turn, if the dataset is in a store"
    )
    store: Annotated[str, Field(pattern="^(file:///|s3://.)")] | None = Field(
        None, description="file:// or s3:// URL where finished shards and stages are kept too, for other machines"
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
    signing_key: str | None = Field(
        None,
        description="ed25519 key in PEM that signs the statements (syncd keys new); SYNCD_SIGNING_KEY wins",
    )
    signing_passphrase_variable: str = Field(
        "SYNCD_SIGNING_PASSPHRASE", description="environment variable that holds the passphrase of an encrypted key"
    )
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    metrics_folder: str | None = Field(
        None, description="folder of node_exporter's textfile collector, for a file of every stage's progress"
    )
    prefect_api_url: str | None = Field(None, description="a running Prefect server; default an ephemeral one")

    @model_validator(mode="after")
    def _consistent(self) -> "Runtime":
        check_runtime(self)
        return self
