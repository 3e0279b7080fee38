"""A disk that is full from the n-th step of writing on: half of what is written arrives, and the rest is refused."""

import builtins
import errno
import io
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PROJECT = str(Path(__file__).resolve().parents[1])
STEPS = ("replace", "link", "mkdir", "fsync")


class FullDisk:
    """Counts the steps that need space below `folder`: writes, flushes and ends of files, renames, links, folders.

    From step `full_at` on each raises ENOSPC; what only reads or deletes goes on. `sites`: the places in this project
    that took a step, each with its first one.
    """

    def __init__(self, folder: Path, full_at: int | None = None) -> None:
        self.folder, self.full_at = folder, full_at
        self.steps = 0
        self.sites: dict[str, int] = {}

    @property
    def was_full(self) -> bool:
        return self.full_at is not None and self.steps >= self.full_at

    def step(self, kind: str, path: object) -> None:
        self.steps += 1
        self.sites.setdefault(f"{_site()} {kind}", self.steps)
        if self.was_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def __enter__(self) -> "FullDisk":
        self._patch = pytest.MonkeyPatch()
        opened = self._opening(io.open)
        self._patch.setattr(io, "open", opened)
        self._patch.setattr(builtins, "open", opened)
        for name in STEPS:
            self._patch.setattr(os, name, self._guarded(name, getattr(os, name)))
        self._patch.setattr(shutil, "copyfile", self._guarded("copy", shutil.copyfile))
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.undo()

    def _guarded(self, kind: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(first: Any, *rest: Any, **options: Any) -> Any:
            self.step(kind, first)
            return call(first, *rest, **options)

        return guarded

    def _opening(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def opening(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
            writes = isinstance(file, str | Path) and set(mode) & set("wax+")
            if not writes or not Path(file).is_relative_to(self.folder):
                return call(file, mode, *rest, **options)
            if not Path(file).exists():
                self.step("create", file)
            return _Stream(self, call(file, mode, *rest, **options), file)

        return opening


class _Stream:
    def __init__(self, disk: FullDisk, stream: Any, path: object) -> None:
        self._disk, self._stream, self._path = disk, stream, path
        self._written = False

    def write(self, data: Any) -> int:
        self._written = True
        try:
            self._disk.step("write", self._path)
        except OSError:
            self._stream.write(data[: len(data) // 2])
            raise
        return self._stream.write(data)

    def flush(self) -> None:
        if self._written:
            self._disk.step("flush", self._path)
        self._stream.flush()

    def close(self) -> None:
        if self._stream.closed:
            return
        try:
            if self._written:
                self._disk.step("close", self._path)
        finally:
            self._stream.close()

    def __enter__(self) -> "_Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _site() -> str:
    """File and function of this project that is writing."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(PROJECT) and name != __file__ and "/.venv/" not in name:
            return f"{Path(name).relative_to(PROJECT)}:{frame.f_code.co_name}"
        frame = frame.f_back
    return "elsewhere"
