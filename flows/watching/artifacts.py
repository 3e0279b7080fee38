"""What Prefect's UI shows of a stage: a bar while it runs, a table when it ends, and the contact sheet as a picture."""

import base64
import io
import time
from pathlib import Path
from uuid import UUID

import httpx
from prefect.artifacts import (
    create_image_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)

from flows.console import result_text
from flows.crashes import crashes_text
from flows.engine import Progress, StageResult
from flows.errors import warn

SECONDS_BETWEEN_UPDATES = 5.0
CONTACT_SHEET = "contact_sheet.png"
WIDEST_PIXELS = 1024


class Artifacts:
    """A Watcher, inside the stage's flow. A server that does not answer ends no stage."""

    def __init__(self, workspace: Path, stage: str) -> None:
        self.workspace, self.stage = workspace, stage
        self.bar: UUID | None = None
        self.updated = 0.0

    def update(self, progress: Progress) -> None:
        now = time.monotonic()
        whole = progress.keys_done == progress.keys_total
        if self.bar is not None and not whole and now - self.updated < SECONDS_BETWEEN_UPDATES:
            return
        self.updated = now
        share = 100.0 * progress.keys_done / progress.keys_total if progress.keys_total else 100.0
        words = f"{progress.keys_done} of {progress.keys_total} keys, {progress.failed} failed"
        try:
            if self.bar is None:
                self.bar = create_progress_artifact(share, key=f"{self.stage}-progress", description=words)
            else:
                update_progress_artifact(self.bar, share, description=words)
        except httpx.HTTPError as error:
            warn(f"{self.stage}: Prefect took no progress: {error}")

    def finish(self, result: StageResult) -> None:
        try:
            create_markdown_artifact(table_of(result), key=f"{self.stage}-result", description=result_text(result))
            sheet = self.workspace / "artifacts" / self.stage / CONTACT_SHEET
            if sheet.exists():
                create_image_artifact(picture_address(sheet), key="contact-sheet", description=str(sheet))
        except httpx.HTTPError as error:
            warn(f"{self.stage}: Prefect took no result: {error}")

    def fail(self, error: BaseException) -> None:
        """Nothing: the flow run says it."""


def table_of(result: StageResult) -> str:
    failed = ", ".join(f"{count} {reason}" for reason, count in sorted(result.failed.items()))
    rows = {
        "keys": str(result.keys),
        "failed": failed or "0",
        "shards": f"{result.shards}, {result.reused} made before",
        "crashes": crashes_text(result.crashes) or "0",
        "seconds": f"{result.seconds:.1f}",
        "signature": result.signature,
    }
    return "\n".join([f"| {result.stage} | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def picture_address(path: Path) -> str:
    """A data: URL of the picture made small, since a browser opens no file of the server's disk."""
    from PIL import Image

    with Image.open(path) as picture:
        small = picture.convert("RGB")
    small.thumbnail((WIDEST_PIXELS, WIDEST_PIXELS))
    out = io.BytesIO()
    small.save(out, format="JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"
