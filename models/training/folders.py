"""Where features are kept: by all that they follow from, so that trainings which differ in nothing else share them."""

from pathlib import Path

from configs.schema import ModelRef
from configs.training import Train
from data.ids import digest_of

VERSION = 1
"""Of the code that encodes: raise it when equal inputs give other features, or other files."""


def features_root(workspace: Path) -> Path:
    """Beside the work folders of the train stage's signatures; in it a folder for each origin of features."""
    return workspace / "artifacts" / ".work" / "train" / "features"


def features_folder(workspace: Path, base: ModelRef, section: Train, seed: int, dataset_sha256: str) -> Path:
    """`dataset_sha256`: of the index.json of the dataset, which fixes its shards and the size of its images."""
    origin = {
        "version": VERSION,
        "base": base.model_dump(mode="json"),
        "dtype": section.dtype,
        "masks": section.noised is not None and section.noised.needs_masks,
        "max_references": section.max_references,
        "reference_crops": section.reference_crops,
        "crops_seed": seed if section.reference_crops else None,
        "dataset": dataset_sha256,
    }
    return features_root(workspace) / digest_of(origin)[:16]
