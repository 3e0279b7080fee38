"""What one training is told: everything that a process needs to do its part of it."""

import logging
import time
from collections import Counter
from pathlib import Path

from accelerate import PartialState
from pydantic import BaseModel, ConfigDict, Field

from configs.schema import ModelRef
from configs.training import Train
from data.digests import DigestCache
from data.images import decode_png
from data.pairs import PairOrder
from data.reader import ShardReader
from data.store import Store
from models.customizer import Customizer, load_customizer
from models.training.features import FeatureStore
from models.training.folders import features_folder
from models.training.pairs import PairMix, PairStore, counts
from models.training.settings import Settings
from models.training.trainer import Run

log = logging.getLogger(__name__)


class TrainingJob(BaseModel):
    """One training; it travels to its processes as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    section: Train
    seed: int
    base: ModelRef
    workspace: Path = Field(description="what the recipe's paths are relative to")
    dataset: Path = Field(description="folder of the shard stage")
    folder: Path = Field(description="work folder: checkpoints/, live/")
    settings: Settings = Field(default_factory=Settings)
    store: str | None = Field(default=None, description="URL where checkpoints are kept too")

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def live(self) -> Path:
        return self.folder / "live"


def open_run(job: TrainingJob, device: str) -> Run:
    """The run on `device`, with features of every image and prompt in place; processes share in computing them."""
    section, state = job.section, PartialState(cpu=device == "cpu")
    sharded = section.parallel == "fsdp" and state.num_processes > 1
    ahead = job.settings.prefetch_shards
    reader = ShardReader(job.dataset, job.seed, records_only=True, ahead=ahead)
    customizer = load_customizer(job.base, "cpu" if sharded else device, section.dtype, section.reference_form)
    if sharded:
        customizer.offload(device, "all")
    started = time.monotonic()
    folder = features_folder(job.workspace, job.base, section, job.seed, reader.digest)
    mine = reader.index.model_copy(update={"shards": reader.index.shards[state.process_index :: state.num_processes]})
    encoded = FeatureStore(folder, mine, section, job.seed).prepare(customizer, job.dataset, ahead)
    # Tars are encoded by one process; the others find them done.
    with state.main_process_first():
        pairs = _open_pairs(job, folder / "pairs", customizer, reader)
    state.wait_for_everyone()
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors")) / 1e6
    log.info(
        "train: features of %d shards encoded in %.0f s, those of %d were there; %.1f MB in %s",
        *(encoded, time.monotonic() - started, len(mine.shards) - encoded, size, folder),
    )
    features = FeatureStore(folder, reader.index, section, job.seed)
    _say_skipped(features)
    store = None if job.store is None else Store(job.store)
    return Run(customizer, reader, features, section, job.seed, job.checkpoints, device, job.settings, pairs, store)


def _say_skipped(features: FeatureStore) -> None:
    skipped = list(features.skipped.values())
    if skipped:
        log.warning(
            "train: %d of %d images of the dataset skipped: %s; the first is %s (%s: %s), skipped.json lists all",
            *(len(skipped), features.images + len(skipped), counts(Counter(own.reason for own in skipped))),
            *(skipped[0].key, skipped[0].reason, skipped[0].detail),
        )


def _open_pairs(job: TrainingJob, folder: Path, customizer: Customizer, reader: ShardReader) -> PairMix | None:
    """The text-image pairs of the recipe, encoded into `folder` at the size of the dataset's images; None if it names
    none.
    """
    section = job.section
    if section.pairs is None:
        return None
    digests = DigestCache.of_workspace(job.workspace)
    store = PairStore(folder, job.workspace / section.pairs, digests)
    store.prepare(customizer, *image_size(reader))
    log.info("train: %d text-image pairs", len(store))
    return PairMix(store, PairOrder(len(store), section.pairs_share, job.seed))


def image_size(reader: ShardReader) -> tuple[int, int]:
    """Height and width of the dataset's images, in pixels."""
    first = next(reader.source.read(reader.index.shards[0]))
    return decode_png(first.files[f"{first.record['samples'][0]['index']}.png"]).shape[:2]
