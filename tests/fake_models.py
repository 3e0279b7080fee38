"""What a stage does with a model: load it once in a process and keep it. For tests of runners."""

import os
import uuid
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True)
class Seen:
    """What a job saw of its worker."""

    process: int
    model: str
    """Another one for every time that it is loaded."""
    gpus: str
    threads: str


@lru_cache(maxsize=1)
def load_model() -> str:
    return uuid.uuid4().hex


def look(_: int) -> Seen:
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", ""), os.environ["OMP_NUM_THREADS"]
    return Seen(os.getpid(), load_model(), *seen)
