"""A copy of the finished run for every test of the audit that changes something."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def workspace(finished: Path, tmp_path: Path) -> Path:
    """A copy to change. Tars are hard links elsewhere, so change files by replacing them."""
    return shutil.copytree(finished, tmp_path / "workspace", ignore=shutil.ignore_patterns(".prefect"))
