"""What planning costs: driver, `syncd plan` and batch task load a stage's code before they know of any work."""

import subprocess
import sys

import pytest

from flows.graph import load_graph
from flows.workspace import PROJECT

HEAVY = ("torch", "transformers", "diffusers", "dvclive", "openai")
STAGES = load_graph(PROJECT).names


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_planned_without_the_code_of_models(stage: str) -> None:
    code = f"import sys, tasks.{stage}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
