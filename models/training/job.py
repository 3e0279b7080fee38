"""What one training is told: everything that a process needs to do its part of it."""

import logging
import time
from pathlib import Path

from accelerate import PartialState
from pydantic import BaseModel, ConfigDict, Field

from configs.schema import ModelRef, Train
from data.reader import ShardReader
from models.customizer import load_customizer
from models.training.features import FeatureStore
from models.training.settings import Settings
from models.training.trainer import Run

log = logging.getLogger(__name__)


class TrainingJob(BaseModel):
    """One training; it travels to its processes as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    section: Train
    seed: int
    base: ModelRef
    dataset: Path = Field(description="folder of the shard stage")
    folder: Path = Field(description="work folder: features/, checkpoints/, live/")
    settings: Settings = Field(default_factory=Settings)

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
    reader = ShardReader(job.dataset, job.seed, records_only=True)
    customizer = load_customizer(job.base, "cpu" if sharded else device, section.dtype, section.reference_form)
    if sharded:
        customizer.offload(device, "all")
    started = time.monotonic()
    folder = job.folder / "features"
    mine = reader.index.model_copy(update={"shards": reader.index.shards[state.process_index :: state.num_processes]})
    encoded = FeatureStore(folder, mine).prepare(customizer, job.dataset)
    state.wait_for_everyone()
    log.info("train: features of %d shards encoded in %.0f s", encoded, time.monotonic() - started)
    features = FeatureStore(folder, reader.index)
    return Run(customizer, reader, features, section, job.seed, job.checkpoints, device, job.settings)
