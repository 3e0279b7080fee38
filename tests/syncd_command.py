"""The command as a user runs it, in a process of its own."""

import subprocess
import sys
from pathlib import Path


def syncd(workspace: Path, *words: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "flows.cli", *words, "--workspace", str(workspace)]
    return subprocess.run(line, capture_output=True, text=True, timeout=900)
