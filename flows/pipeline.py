"""The pipeline as a command runs it: in its lock, with its environment, its results printed at the end."""

import os
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from configs.schema import Runtime

FULL_BELOW_BYTES = 1_000_000


def run_pipeline(folder: Path, until: str | None, runtime: "Runtime") -> None:
    """Run the stages of a workspace that are not up to date, as far as `until`; the caller holds its lock."""
    from flows.errors import is_expected
    from flows.results import print_results
    from flows.worker import disk_full
    from flows.workspace import run_environment

    os.environ.update(run_environment(folder, runtime, run_id=str(uuid.uuid4())))
    from flows.regenerate import regenerate

    try:
        regenerate(workspace=str(folder), until=until)
    except Exception as error:
        # Prefect's own database lies in the workspace and is often the first to find no space.
        if is_expected(error) or shutil.disk_usage(folder).free > FULL_BELOW_BYTES:
            raise
        raise disk_full(folder, 0) from error
    print_results(folder)
