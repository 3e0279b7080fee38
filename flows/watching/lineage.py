"""OpenLineage events of a stage: START, COMPLETE and FAIL, its inputs and output by the digest of their index.

An input that is not there has no digest: the stage itself says that it is missing.
Sent where OpenLineage's own configuration says, and only if there is one: OPENLINEAGE_URL, OPENLINEAGE_CONFIG (a file)
or OPENLINEAGE__TRANSPORT__* (see its documentation); OPENLINEAGE_NAMESPACE is the namespace of the jobs. A backend that
does not answer ends no stage. The statements are the record; these are for whoever draws the graph.
"""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from data.shards import sha256_file
from flows.engine import Progress, StageResult
from flows.errors import warn
from flows.graph import index_path, load_graph

PREFIX = "OPENLINEAGE_"
PRODUCER = "https://syncd.dev/engine/v1"
NAMESPACE = "syncd"
DATASETS = "file"
"""Namespace of datasets that are folders of this machine, as OpenLineage names them."""


def is_configured() -> bool:
    """Whether the environment names a place for events."""
    places = [name for name in os.environ if name.startswith(PREFIX)]
    return any(name in (f"{PREFIX}URL", f"{PREFIX}CONFIG") or name.startswith(f"{PREFIX}_TRANSPORT") for name in places)


class Lineage:
    """A Watcher. ConfigError if the package is not installed."""

    def __init__(self, workspace: Path, stage: str, run_id: str) -> None:
        try:
            from openlineage.client import OpenLineageClient
            from openlineage.client.uuid import generate_new_uuid
        except ImportError as error:
            raise ConfigError(
                "the environment configures OpenLineage, and its package is missing: pip install 'syncd[lineage]'"
            ) from error
        self.client = OpenLineageClient()
        self.workspace, self.stage, self.outer = workspace, stage, run_id
        self.run_id = str(generate_new_uuid())
        self.began = False

    def update(self, progress: Progress) -> None:
        if not self.began:
            self.began = True
            self._emit("START")

    def finish(self, result: StageResult) -> None:
        self._emit("COMPLETE", outputs=[self._dataset(self.stage)])

    def fail(self, error: BaseException) -> None:
        from openlineage.client.facet_v2 import error_message_run

        message = error_message_run.ErrorMessageRunFacet(message=str(error), programmingLanguage="Python")
        self._emit("FAIL", facets={"errorMessage": message})

    def _emit(self, kind: str, outputs: list[Any] | None = None, facets: dict[str, Any] | None = None) -> None:
        from openlineage.client.event_v2 import Job, Run, RunEvent, RunState
        from openlineage.client.facet_v2 import parent_run

        namespace = os.environ.get(f"{PREFIX}NAMESPACE", NAMESPACE)
        found = dict(facets or {})
        if self.outer:
            parent = parent_run.Job(namespace=namespace, name="regenerate")
            found["parent"] = parent_run.ParentRunFacet(run=parent_run.Run(runId=self.outer), job=parent)
        event = RunEvent(
            eventType=RunState[kind],
            eventTime=datetime.now(UTC).isoformat(),
            run=Run(runId=self.run_id, facets=found),
            job=Job(namespace=namespace, name=self.stage),
            producer=PRODUCER,
            inputs=[self._dataset(name) for name in load_graph(self.workspace).node(self.stage).inputs],
            outputs=outputs or [],
        )
        try:
            self.client.emit(event)
        except (OSError, RuntimeError) as error:
            warn(f"{self.stage}: the {kind} event of OpenLineage was not taken: {type(error).__name__}: {error}")

    def _dataset(self, stage: str) -> Any:
        from openlineage.client.event_v2 import Dataset
        from openlineage.client.facet_v2 import dataset_version_dataset

        path = index_path(self.workspace, stage)
        facets = {}
        if path.exists():
            facets["version"] = dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=sha256_file(path))
        return Dataset(namespace=DATASETS, name=str(path.parent), facets=facets)
