"""The whole pipeline on the miniature, as a user runs it: a small demo through dvc and Prefect, and what follows."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from syncd_command import syncd

from benchmarks.reproducibility import compare
from data.images import decode_png
from data.shards import load_index, read_all, sha256_file

SMALL = (
    "assets.count=16",
    "assets.eval_share=0.25",
    "generate.steps=8",
    "select.min_quality=-10",
    "select.min_identity=-1",
    "train.steps=6",
    "train.checkpoint_every=3",
    "evaluate.objects=2",
    "evaluate.steps=4",
)


def overrides(*extra: str) -> list[str]:
    return [word for setting in (*SMALL, *extra) for word in ("--set", setting)]


def stages_to_run(workspace: Path, *words: str) -> set[str]:
    planned = syncd(workspace, "plan", "--json", *words)
    assert planned.returncode == 0, planned.stderr
    return {row["stage"] for row in json.loads(planned.stdout)["stages"] if row["would_run"]}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    finished = syncd(folder, "run", "--recipe", "demo", *overrides())
    assert finished.returncode == 0, finished.stderr[-4000:]
    return folder


def test_every_image_asked_for_is_there_scored_and_decided_on(workspace: Path) -> None:
    artifacts = workspace / "artifacts"
    rendered = load_index(artifacts / "render")
    made = load_index(artifacts / "generate")
    assert len(made.keys) == len(rendered.keys) - len(rendered.summary["held_out_sets"]) > 0
    assert load_index(artifacts / "score").keys == made.keys == load_index(artifacts / "select").keys
    for sample in read_all(artifacts / "generate", made):
        assert {"0.png", "1.png", "2.png", "0.mask.png"} <= set(sample.files)


def test_a_set_can_be_looked_at_from_all_sides(workspace: Path) -> None:
    key = load_index(workspace / "artifacts" / "generate").keys[0]
    shown = syncd(workspace, "inspect", key)
    assert shown.returncode == 0, shown.stderr
    for words in ("decision", "scores", "overlap", "told", "hash", f"{key}.png"):
        assert words in shown.stdout
    picture = decode_png((workspace / "artifacts" / "inspect" / f"{key}.png").read_bytes())
    assert picture.shape[0] > 900 and np.ptp(picture) > 200
    wrong = syncd(workspace, "inspect", key[:-1] + "7")
    assert wrong.returncode == 1 and f"for example {key}" in wrong.stderr


def test_checkpoint_names_the_dataset_it_was_trained_on(workspace: Path) -> None:
    weights = workspace / "artifacts" / "train" / "pytorch_lora_weights.safetensors"
    with safe_open(weights, framework="pt") as stream:
        metadata = stream.metadata()
    assert metadata["dataset_sha256"] == sha256_file(workspace / "artifacts" / "shard" / "index.json")


def test_statements_chain_and_every_digest_holds(workspace: Path) -> None:
    verified = syncd(workspace, "verify")
    assert verified.returncode == 0, verified.stderr


def test_a_second_run_finds_nothing_to_do(workspace: Path) -> None:
    assert stages_to_run(workspace) == set()


def test_a_changed_threshold_runs_select_and_later_but_not_score(workspace: Path) -> None:
    stages = stages_to_run(workspace, "--recipe", "demo", *overrides("select.min_identity=0.1"))
    assert "select" in stages and "shard" in stages
    assert not stages & {"assets", "prompts", "render", "generate", "score"}


def test_a_sample_is_made_from_a_reference_and_carries_its_provenance(workspace: Path, tmp_path: Path) -> None:
    from PIL import Image

    reference = tmp_path / "reference.png"
    index = load_index(workspace / "artifacts" / "generate")
    reference.write_bytes(next(read_all(workspace / "artifacts" / "generate", index)).files["0.png"])
    out = tmp_path / "sample.png"
    words = ("sample", "--reference", str(reference), "--prompt", "a mug on a beach", "--out", str(out))
    finished = syncd(workspace, *words)
    assert finished.returncode == 0, finished.stderr
    with Image.open(out) as image:
        assert image.size == (64, 64)
        assert any("a mug on a beach" in str(value) for value in image.text.values())


def test_digests_are_equal_for_one_worker_and_for_two_that_were_killed(tmp_path: Path) -> None:
    found = compare(tmp_path, objects=8, undisturbed=(1,))
    assert len(found) == 2
    assert len({tuple(row.values()) for row in found.values()}) == 1, found
