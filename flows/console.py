"""What long work shows: a bar with rate and time left on a terminal, plain lines elsewhere."""

import logging
import sys
import tarfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from data.outside_text import on_terminal
from flows.crashes import crashes_text
from flows.engine import Progress, StageResult

SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_LOOKS = 1.0
MOST_LOOKING = 0.02
"""Share of the time that may go into looks at unfinished shards: with a million files in a folder one takes seconds."""
LOGGERS = ("data", "models", "tasks")


class StageProgress(ABC):
    """Where one stage stands, drawn again every second: shards that are not finished count by the keys in them."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.started = time.monotonic()
        self.wall_started = time.time()
        self.latest: Progress | None = None
        self.first: Progress | None = None
        self.note = ""
        self._seen, self._next_look = 0, 0.0
        self._stop = threading.Event()
        self._ticker = threading.Thread(target=self._tick, daemon=True)

    def update(self, progress: Progress) -> None:
        """Called by the engine at the start and after every shard."""
        self.latest = progress
        if self.first is None:
            self.first = progress
            self.begin(progress)
            self._ticker.start()
        self.draw()

    def finish(self, result: StageResult) -> None:
        self.close()
        say(result_text(result))

    def close(self) -> None:
        self._stop.set()
        if self._ticker.is_alive():
            self._ticker.join()

    def _tick(self) -> None:
        while not self._stop.wait(SECONDS_BETWEEN_LOOKS):
            self.draw()

    def done(self) -> int:
        """Keys that are finished or written to an unfinished shard."""
        assert self.latest is not None
        before = time.monotonic()
        if before >= self._next_look:
            self._seen = self.latest.keys_done + keys_begun(self.latest.work_dir, self.wall_started)
            after = time.monotonic()
            self._next_look = after + max(SECONDS_BETWEEN_LOOKS, (after - before) / MOST_LOOKING)
        return min(max(self.latest.keys_done, self._seen), self.latest.keys_total)

    def rate(self, done: int) -> float:
        """Keys per second since this run began."""
        assert self.first is not None
        return (done - self.first.keys_done) / max(time.monotonic() - self.started, 1e-6)

    @abstractmethod
    def begin(self, progress: Progress) -> None:
        """Show that a stage starts."""

    @abstractmethod
    def draw(self) -> None:
        """Show how far it is; called again and again."""


class PlainProgress(StageProgress):
    """A line when a stage starts, now and then while it runs, and when it ends."""

    shown = 0.0

    def begin(self, progress: Progress) -> None:
        kept = f", {progress.shards_done} done before" if progress.shards_done else ""
        say(f"{self.stage}: {progress.keys_total} keys in {progress.shards_total} shards{kept}")
        self.shown = time.monotonic()

    def draw(self) -> None:
        if time.monotonic() - self.shown < SECONDS_BETWEEN_LINES or self.latest is None:
            return
        self.shown = time.monotonic()
        done, total = self.done(), self.latest.keys_total
        rate = self.rate(done)
        left = f", {clock_text((total - done) / rate)} left" if rate > 0 else ""
        failed = f", {self.latest.failed} failed" if self.latest.failed else ""
        note = f" ({self.note})" if self.note else ""
        say(f"{self.stage}: {done}/{total}{failed}, {rate:.2f}/s{left}{note}")


class BarProgress(StageProgress):
    """A bar that rich keeps on one line."""

    def __init__(self, stage: str) -> None:
        super().__init__(stage)
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = [
            TextColumn("{task.description:9}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
        ]
        self.bar = Progress(*columns, transient=True)
        self.task = self.bar.add_task(stage, total=None, note="")

    def begin(self, progress: Progress) -> None:
        self.bar.start()

    def draw(self) -> None:
        if self.latest is None:
            return
        done, total = self.done(), self.latest.keys_total
        rate = self.rate(done)
        parts = [f"{rate:.2f}/s"]
        if self.latest.failed:
            parts.append(f"{self.latest.failed} failed")
        if rate > 0:
            parts.append(f"{clock_text((total - done) / rate)} left")
        if self.note:
            parts = [self.note]
        self.bar.update(self.task, completed=done, total=total, note=", ".join(parts))

    def close(self) -> None:
        super().close()
        self.bar.stop()


class _Notes(logging.Handler):
    """The latest log line of a stage, beside its progress; warnings on a line of their own."""

    def __init__(self, show: StageProgress) -> None:
        super().__init__()
        self.show = show

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if record.levelno >= logging.WARNING:
            print(f"{record.levelname}: {on_terminal(message)}", file=sys.stderr, flush=True)
        else:
            self.show.note = message.removeprefix(f"{self.show.stage}: ")


@contextmanager
def stage_progress(stage: str, level: str = "info") -> Iterator[StageProgress]:
    """Progress of one stage on the console, and log lines of its code from `level` up."""
    show = BarProgress(stage) if sys.stdout.isatty() else PlainProgress(stage)
    handler = _Notes(show)
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(level.upper())
        logger.propagate = False  # Prefect prints what reaches the root
        logger.addHandler(handler)
    try:
        yield show
    finally:
        show.close()
        for name in LOGGERS:
            logging.getLogger(name).removeHandler(handler)
            logging.getLogger(name).propagate = True


def keys_begun(work_dir: Path, since: float) -> int:
    """Keys in the unfinished shards that were written to after `since` (seconds of the epoch)."""
    keys: set[str] = set()
    for path in work_dir.glob(".*.tar.*.tmp"):
        with suppress(OSError, tarfile.TarError):
            if path.stat().st_mtime < since:
                continue
            with tarfile.open(path) as tar:
                for member in tar:
                    keys.add(member.name.partition(".")[0])
    return len(keys)


def say(line: str) -> None:
    print(on_terminal(line), flush=True)


def clock_text(seconds: float) -> str:
    """`1:02:03`, or `2:03` below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def result_text(result: StageResult) -> str:
    failed = sum(result.failed.values())
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(result.failed.items()))
    note = f", {failed} failed ({reasons})" if failed else ""
    crashed = f", crashes on the way: {crashes_text(result.crashes)}" if result.crashes else ""
    reused = f", {result.reused} of {result.shards} shards reused" if result.reused else ""
    return f"{result.stage}: {result.keys} done{note} in {clock_text(result.seconds)}{reused}{crashed}"
