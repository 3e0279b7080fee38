"""What long work shows: a bar with rate and time left on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from flows.engine import Progress, StageResult

SECONDS_BETWEEN_LINES = 10.0


class PlainProgress:
    """A line when a stage starts, now and then while it runs, and when it ends."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.started = self.shown = time.monotonic()
        self.at_start: Progress | None = None

    def update(self, progress: Progress) -> None:
        now = time.monotonic()
        if self.at_start is None:
            self.at_start = progress
            kept = f", {progress.shards_done} done before" if progress.shards_done else ""
            say(f"{self.stage}: {progress.keys_total} keys in {progress.shards_total} shards{kept}")
        elif now - self.shown > SECONDS_BETWEEN_LINES:
            self.shown = now
            made = progress.keys_done - self.at_start.keys_done
            rate = made / max(now - self.started, 1e-6)
            left = clock_text((progress.keys_total - progress.keys_done) / rate) if rate else "?"
            say(
                f"{self.stage}: {progress.keys_done}/{progress.keys_total}, {progress.failed} failed, "
                f"{rate:.2f}/s, {left} left"
            )

    def finish(self, result: StageResult) -> None:
        say(result_text(result))


class BarProgress:
    """The same with a bar that rich keeps on one line."""

    def __init__(self, stage: str) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn as Remaining

        self.bar = Progress(
            TextColumn("{task.description:9}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            Remaining(),
            transient=True,
        )
        self.task = self.bar.add_task(stage, total=None, rate="")
        self.started = time.monotonic()
        self.done_before: int | None = None
        self.bar.start()

    def update(self, progress: Progress) -> None:
        if self.done_before is None:
            self.done_before = progress.keys_done
        rate = (progress.keys_done - self.done_before) / max(time.monotonic() - self.started, 1e-6)
        note = f"{rate:.1f}/s" + (f", {progress.failed} failed" if progress.failed else "")
        self.bar.update(self.task, completed=progress.keys_done, total=progress.keys_total, rate=note)

    def finish(self, result: StageResult) -> None:
        self.bar.stop()
        say(result_text(result))


@contextmanager
def stage_progress(stage: str) -> Iterator[PlainProgress | BarProgress]:
    show = BarProgress(stage) if sys.stdout.isatty() else PlainProgress(stage)
    try:
        yield show
    finally:
        if isinstance(show, BarProgress):
            show.bar.stop()


def say(line: str) -> None:
    print(line, flush=True)


def print_table(rows: list[list[str]]) -> None:
    """Header and rows, as wide as they need where output is no terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console() if sys.stdout.isatty() else Console(width=200)
    table = Table(*rows[0], box=SIMPLE_HEAD, pad_edge=False)
    for row in rows[1:]:
        table.add_row(*row)
    console.print(table)


def clock_text(seconds: float) -> str:
    """`1:02:03`, or `2:03` below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def result_text(result: StageResult) -> str:
    failed = sum(result.failed.values())
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(result.failed.items()))
    note = f", {failed} failed ({reasons})" if failed else ""
    reused = f", {result.reused} of {result.shards} shards reused" if result.reused else ""
    return f"{result.stage}: {result.keys} done{note} in {clock_text(result.seconds)}{reused}"
