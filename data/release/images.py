"""images.parquet: one row per published image, for whoever looks for images without opening the shards."""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.published import PublishedRecord
from data.shards import Sample

COLUMNS: dict[str, tuple[pa.DataType, str]] = {
    "sample_id": (pa.string(), "Name of the image, unique in the dataset."),
    "set_id": (pa.string(), "The set; its images show one object."),
    "object_id": (pa.string(), "The object that the images of a set show."),
    "shard": (pa.string(), "The tar that holds the image."),
    "image": (pa.string(), "Member of the tar: the image."),
    "mask": (pa.string(), "Member of the tar: 255 on the object, 0 elsewhere."),
    "image_sha256": (pa.string(), "Digest of the image file."),
    "category": (pa.string(), "Noun of the object."),
    "caption": (pa.string(), "Description of the object."),
    "prompt": (pa.string(), "What the image shows, in words."),
    "prompt_kind": (pa.string(), "scene, other_object or style: what the prompt changes."),
    "seed": (pa.int64(), "Seed of the image's noise."),
    "model": (pa.string(), "Generator, as name@revision."),
    "asset": (pa.string(), "The 3D asset or description that the object comes from."),
    "asset_licence": (pa.string(), "SPDX identifier of the terms under which the asset was used."),
    "quality": (pa.float64(), "Aesthetic score, about 1 to 10."),
    "identity": (pa.float64(), "Mean DINOv2 cosine of the object to that in the other images of the set."),
    "text_alignment": (pa.float64(), "CLIP cosine of image and prompt."),
}
"""Name -> type and meaning."""

ROW_GROUP = 20_000


def rows_of(shard: str, sample: Sample, record: PublishedRecord) -> Iterator[dict[str, Any]]:
    """One row, named as COLUMNS, for every image of a set."""
    for image in record.samples:
        name = f"{image.index}.png"
        yield {
            "sample_id": image.sample_id,
            "set_id": record.set_id,
            "object_id": record.object_id,
            "shard": shard,
            "image": f"{sample.key}.{name}",
            "mask": f"{sample.key}.{image.index}.mask.png",
            "image_sha256": hashlib.sha256(sample.files[name]).hexdigest(),
            "category": record.category,
            "caption": record.caption,
            "prompt": image.prompt,
            "prompt_kind": image.prompt_kind,
            "seed": image.seed,
            "model": record.model,
            "asset": record.asset.page or record.asset.uri,
            "asset_licence": record.asset.licence,
            "quality": image.scores.quality,
            "identity": image.scores.identity,
            "text_alignment": image.scores.clip_text,
        }


def write_images(rows: Iterable[dict[str, Any]], path: Path) -> None:
    """Equal rows give equal bytes under one version of pyarrow. Takes them as they come, ROW_GROUP at a time."""
    schema = pa.schema([pa.field(name, kind) for name, (kind, _) in COLUMNS.items()])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        left = iter(rows)
        while group := list(islice(left, ROW_GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
