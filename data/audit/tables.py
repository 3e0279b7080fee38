"""The tables of the audit store, as SQL sees them. A dataset and a checkpoint each have a folder of their own.

One file per table and folder; a view joins the files of all datasets, or of all checkpoints.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Type = Literal["text", "int", "float", "bool"]
Kind = Literal["datasets", "checkpoints"]
SQL_TYPES: Mapping[Type, str] = {"text": "VARCHAR", "int": "BIGINT", "float": "DOUBLE", "bool": "BOOLEAN"}


@dataclass(frozen=True)
class Column:
    type: Type
    about: str


@dataclass(frozen=True)
class Table:
    name: str
    kind: Kind
    about: str
    columns: Mapping[str, Column]
    """All but the first, which is the digest of the dataset or checkpoint."""

    @property
    def key(self) -> str:
        return KEYS[self.kind]

    @property
    def typed(self) -> dict[str, Column]:
        return {self.key: Column("text", f"sha256 that names the {self.kind[:-1]}"), **self.columns}


KEYS: Mapping[Kind, str] = {"datasets": "dataset_sha256", "checkpoints": "checkpoint_sha256"}
"""First column of every table: sha256 of the dataset's index.json, or of the checkpoint's weights file."""


def _columns(text: str) -> dict[str, Column]:
    """One column a line: name, type, what it is."""
    rows = (line.split(None, 2) for line in text.strip().splitlines())
    return {name: Column(kind, about) for name, kind, about in rows}  # type: ignore[arg-type]


STATEMENT = """
stage          text   whose statement it is
statement      text   sha256 of the statement's file
signature      text   of everything that determines the bytes of the stage
started        text   when the first shard was begun, RFC 3339
finished       text   when the stage was published
commit         text   git commit of the code; NULL outside a checkout
dirty          bool   whether code was not committed; NULL outside a checkout
sources        text   sha256 of all source files
environment    text   sha256 of the versions of all installed packages
body           text   the statement's file itself, canonical JSON
"""

TABLES = (
    Table(
        "datasets",
        "datasets",
        "One row for every published dataset.",
        _columns("""
signature      text   of the shard stage
statement      text   sha256 of the shard stage's statement
recipe         text   name of the recipe
seed           int    run seed
finished       text   when it was published, RFC 3339
objects        int    with a published set
sets           int    published
samples        int    published images
shards         int    tars
bytes          int    of all tars
commit         text   git commit of the code that published it; NULL outside a checkout
dirty          bool   whether code was not committed
"""),
    ),
    Table(
        "samples",
        "datasets",
        "Every published image.",
        _columns("""
sample_id      text   id, unique in its dataset
set_id         text   the set it is of
object_id      text   the object it shows
image_index    int    its number in the set, from 0
prompt         text   caption that is published and trained on
prompt_kind    text   scene, other_object, style
prompt_sent    text   what the generator was told
seed           int    of its noise
png_sha256     text   of its PNG in the shard
mask_sha256    text   of the PNG of its object mask
"""),
    ),
    Table(
        "sets",
        "datasets",
        "Every set that was planned, and what became of it.",
        _columns("""
set_id         text   id, unique in its dataset
object_id      text   the object it shows
fate           text   published, dropped (select), not chosen (shard.sets, shard.categories), held out, failed
stage          text   where it failed or was dropped; NULL for published
reason         text   code of why it was not published
images         int    published images, 0 if there are none
category       text   of the object; NULL if it is not published
caption        text   description of the object in the prompts; NULL if it is not published
model          text   generator as name@revision; NULL if it is not published
duplicate_of   text   the earlier set that it nearly repeats, if that is why it was dropped
shard          text   file name of its tar
shard_sha256   text   digest of its tar
"""),
    ),
    Table(
        "assets",
        "datasets",
        "Every object that the source offered, and what became of it.",
        _columns("""
object_id      text   id, unique in its dataset
fate           text   usable, failed, rejected (by the source or the licence allow-list)
reason         text   code of why it is not usable
detail         text   the same in words
split          text   train, or eval for objects held out
category       text   of the object
caption        text   of the asset
licence        text   SPDX identifier
source         text   miniature, folder, objaverse, subjects
uri            text   where it is from
source_sha256  text   of the file as fetched, or of the description
mesh_sha256    text   of the GLB that was rendered; NULL without a mesh
outcome        text   found, first_seen, generated, described
"""),
    ),
    Table(
        "prompts",
        "datasets",
        "Every caption that was written for an object, rejected ones included.",
        _columns("""
object_id      text   whose caption it is
place          int    among those of the object with the same verdict, from 0
accepted       bool   whether it passed validation
reason         text   code of why it was rejected
text           text   the caption
detailed       text   the same with the object's appearance, if that was told to the generator
kind           text   scene, other_object, style; background, property for evaluation
writer         text   who wrote it, as name or name@revision
"""),
    ),
    Table(
        "decisions",
        "datasets",
        "Every generated image with its scores and the decision on it.",
        _columns("""
sample_id      text   id, unique in its dataset
set_id         text   the set it is of
image_index    int    its number in the set, from 0
kept           bool   whether select kept it
reason         text   code of the check at which it fell first
value          float  what was compared
threshold      float  with what
quality        float  aesthetic score
identity       float  mean DINOv2 cosine to the others of the set
identity_masked float the same, backgrounds masked out
clip_image     float  mean CLIP cosine to the others of the set
clip_text      float  CLIP cosine to its prompt
background     float  mean DINOv2 cosine to the others, objects greyed out
saturation     float  mean HSV saturation
clipped        float  share of values that are 0 or 255
area           float  object share of the frame
cut_off        float  share of the outline on the border
"""),
    ),
    Table(
        "models",
        "datasets",
        "Every model behind a dataset, as the statements name it.",
        _columns("""
stage          text   which used it
role           text   generator, clip, quality, identity, writer
name           text   in the model registry
source         text   where its files are
revision       text   pinned revision or digest
licence        text   SPDX identifier
verified       bool   false for a model behind a server, which has no files to check
"""),
    ),
    Table("statements", "datasets", "The chain of statements from assets to shard.", _columns(STATEMENT)),
    Table(
        "checkpoints",
        "checkpoints",
        "One row for every published checkpoint.",
        _columns("""
dataset_sha256 text   the dataset it was trained on
signature      text   of the train stage
statement      text   sha256 of the train stage's statement
finished       text   when it was published, RFC 3339
base_model     text   name in the model registry
base_revision  text   pinned revision or digest
base_source    text   where its files are
base_licence   text   SPDX identifier
recipe_sha256  text   of seed, base model and train section
pairs_sha256   text   of the tars of text-image pairs; NULL without
reference_form text   how references enter attention
lora_rank      int    of the adapter
height         int    of the training images
width          int    of the training images
steps          int    optimizer steps
ledger_sha256  text   of ledger.jsonl
commit         text   git commit of the code that trained it
dirty          bool   whether code was not committed
"""),
    ),
    Table(
        "ledger",
        "checkpoints",
        "Every use of an image in training: one row for a target, one for each reference that was shown.",
        _columns("""
step           int    optimizer step, from 0
place          int    of the example in the step, from 0
use            text   target, reference, or pair (a text-image pair from elsewhere)
slot           int    of a reference among those of its example, from 0; NULL for others
sample_id      text   the image; NULL for a pair
set_id         text   its set; NULL for a pair
shard_sha256   text   the tar it was read from
pair           text   key of a pair in its tar
text           bool   whether the caption was shown (target and pair)
flipped        bool   whether a reference was mirrored
crop           int    number of the crop of a reference; NULL for the whole image
"""),
    ),
    Table(
        "pair_tars",
        "checkpoints",
        "The tars of text-image pairs that a checkpoint was trained on as well.",
        _columns("""
name           text   file name
tar_sha256     text   of the tar
pairs          int    that could be used
skipped        text   samples that could not be used, by reason, as JSON
"""),
    ),
    Table(
        "training_statements",
        "checkpoints",
        "The chain of statements from assets to train, as it was for the checkpoint.",
        _columns(STATEMENT),
    ),
)
BY_NAME: Mapping[str, Table] = {table.name: table for table in TABLES}


def tables_of(kind: Kind) -> tuple[Table, ...]:
    return tuple(table for table in TABLES if table.kind == kind)


def handbook() -> str:
    """What can be asked: every table with its columns."""
    lines = []
    for table in TABLES:
        lines += [f"{table.name}: {table.about}"]
        lines += [f"  {name:18} {SQL_TYPES[column.type]:8} {column.about}" for name, column in table.typed.items()]
        lines.append("")
    return "\n".join(lines).rstrip()
