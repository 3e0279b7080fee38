"""Following a stage from outside: Prometheus, Prefect's artifacts, OpenLineage. Nothing here changes a byte or ends a
stage."""

from typing import Protocol

from flows.engine import Progress, StageResult


class Watcher(Protocol):
    """Told of one stage, in its own process."""

    def update(self, progress: Progress) -> None:
        """At the start and after every shard."""

    def finish(self, result: StageResult) -> None:
        """At a good end."""

    def fail(self, error: BaseException) -> None:
        """At any other end."""
