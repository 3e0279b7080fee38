"""Bytes of a stage may change only together with its version in configs/versions.yaml.

The expected output of each stage on four objects is kept beside this file, as tars. Records must be equal; pictures may
differ by rounding, since another processor rounds differently. After a change on purpose: bump the version, then

    SYNCD_UPDATE_GOLDEN=1 python -m pytest tests/golden
"""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from configs.load import CONFIGS, load_recipe, load_runtime
from data.images import decode_png
from data.shards import Sample, load_index, read_all, read_tar
from flows.engine import run_stage
from flows.runners import serial
from flows.workspace import prepare_workspace

HERE = Path(__file__).parent
STAGES = ("assets", "prompts", "render", "generate", "score", "select", "shard")
RECIPE = (
    "assets.count=4",
    "assets.eval_share=0",
    "generate.steps=4",
    "select.min_quality=-10",
    "select.min_identity=-1",
    "select.max_identity=1",
)
MEAN_DIFFERENCE = 1.0
"""Allowed mean absolute difference of pictures, of 255 (of 65535 for depth: the same number)."""
SCORE_DIFFERENCE = 0.02


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Sample]]:
    workspace = prepare_workspace(tmp_path_factory.mktemp("golden"), load_recipe("demo", RECIPE))
    made = {}
    for stage in STAGES:
        run_stage(stage, workspace, load_runtime("local"), runner=serial)
        folder = workspace / "artifacts" / stage
        made[stage] = list(read_all(folder, load_index(folder)))
        if os.environ.get("SYNCD_UPDATE_GOLDEN"):
            shutil.copy(folder / "000000.tar", HERE / f"{stage}-v{version_of(stage)}.tar")
    return made


def version_of(stage: str) -> int:
    return yaml.safe_load((CONFIGS / "versions.yaml").read_text(encoding="utf-8"))[stage]


@pytest.mark.parametrize("stage", STAGES)
def test_bytes_change_only_with_the_version(stage: str, outputs: dict[str, list[Sample]]) -> None:
    path = HERE / f"{stage}-v{version_of(stage)}.tar"
    assert path.exists(), f"{path.name} is missing: see the head of this file for how to make it"
    expected = list(read_tar(path.read_bytes()))
    assert [sample.key for sample in outputs[stage]] == [sample.key for sample in expected]
    for sample, golden in zip(outputs[stage], expected, strict=True):
        assert differences(sample.record, golden.record) == []
        assert sample.files.keys() == golden.files.keys()
        for name, data in sample.files.items():
            if name.endswith(".png"):
                found, wanted = (decode_png(content).astype(np.float64) for content in (data, golden.files[name]))
                assert np.abs(found - wanted).mean() <= MEAN_DIFFERENCE, f"{stage}: {sample.key}.{name}"
            else:
                assert data == golden.files[name], f"{stage}: {sample.key}.{name}"


def differences(found: object, wanted: object, where: str = "record") -> list[str]:
    """Where two JSON values differ; numbers that are no integers may differ a little."""
    if isinstance(found, dict) and isinstance(wanted, dict) and found.keys() == wanted.keys():
        return [line for key in found for line in differences(found[key], wanted[key], f"{where}.{key}")]
    if isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        pairs = zip(found, wanted, strict=True)
        return [line for place, (a, b) in enumerate(pairs) for line in differences(a, b, f"{where}[{place}]")]
    if isinstance(found, float) and isinstance(wanted, float):
        return [] if abs(found - wanted) <= SCORE_DIFFERENCE else [f"{where}: {found} is not {wanted}"]
    return [] if found == wanted else [f"{where}: {found!r} is not {wanted!r}"]
