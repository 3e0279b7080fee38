"""The deformable branch on the miniature: from subjects in words, by way of masks from attention, to a report."""

from pathlib import Path

import numpy as np
import pytest

from configs.load import load_resolved
from configs.schema import Runtime
from data.images import decode_mask, decode_png
from data.published import PublishedRecord
from data.records import GeneratedRecord, PromptRecord
from data.shards import load_index, read_all
from flows.audit.verify import verify
from flows.engine import run_stage
from flows.graph import load_graph
from flows.runners import serial
from flows.workspace import choose_recipe, prepare_workspace
from tasks.inspect_set import UnknownSetError, inspect_set

RUNTIME = Runtime(runner="thread", workers=1, threads_per_worker=1, device="cpu", min_free_disk_gb=0)
SMALL = (
    "assets.count=6",
    "generate.steps=6",
    "select.min_quality=-10",
    "select.min_identity=-1",
    "train.steps=2",
    "train.batch=2",
    "train.checkpoint_every=1",
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deformable")
    prepare_workspace(folder, choose_recipe(folder, "miniature-deformable", SMALL))
    for stage in load_graph(folder).names:
        run_stage(stage, folder, RUNTIME, serial)
    return folder


def records(workspace: Path, stage: str, kind: type) -> list:
    folder = workspace / "artifacts" / stage
    return [kind.model_validate(sample.record) for sample in read_all(folder, load_index(folder))]


def test_appearance_is_in_what_the_model_is_told_and_in_no_prompt(workspace: Path) -> None:
    prompts = {record.object_id: record for record in records(workspace, "prompts", PromptRecord)}
    published = records(workspace, "shard", PublishedRecord)
    assert published
    for record in published:
        assert record.appearance == prompts[record.object_id].appearance
        for sample in record.samples:
            assert sample.prompt_sent.startswith(str(record.appearance)) and str(record.appearance) not in sample.prompt
            assert sample.prompt.startswith(record.caption)
            assert sample.prompt.removeprefix(record.caption) == sample.prompt_sent.removeprefix(str(record.appearance))
    assert all(record.asset.mesh_sha256 is None for record in published)


def test_the_card_speaks_of_words_and_not_of_meshes(workspace: Path) -> None:
    text = " ".join((workspace / "artifacts" / "shard" / "DATASET_CARD.md").read_text().split())
    assert "there are no meshes" in text and "licence of the description" in text
    assert "Captions were written by grammar." in text and "Meshes come from" not in text


def test_masks_come_with_the_images_without_depth(workspace: Path) -> None:
    folder = workspace / "artifacts" / "generate"
    for sample in read_all(folder, load_index(folder)):
        record = GeneratedRecord.model_validate(sample.record)
        assert not any(name.endswith("depth.png") for name in sample.files)
        for image in record.samples:
            mask = decode_mask(sample.files[f"{image.index}.mask.png"])
            assert mask.shape == decode_png(sample.files[f"{image.index}.png"]).shape[:2]
            assert 0 < mask.mean() < 1


def test_the_ablation_without_details_is_told_the_published_prompt(workspace: Path, tmp_path: Path) -> None:
    prepare_workspace(
        tmp_path,
        choose_recipe(
            tmp_path, "miniature-deformable", (*SMALL, "generate.appearance=false", "generate.mask_words=noun")
        ),
    )
    for stage in ("assets", "prompts", "render", "generate"):
        run_stage(stage, tmp_path, RUNTIME, serial)
    plain, told = (records(folder, "generate", GeneratedRecord) for folder in (tmp_path, workspace))
    assert [record.set_id for record in plain] == [record.set_id for record in told]
    assert all(sample.prompt_sent == sample.prompt for record in plain for sample in record.samples)
    assert all(pictures(tmp_path)[key] != picture for key, picture in pictures(workspace).items())


def pictures(workspace: Path) -> dict[str, bytes]:
    folder = workspace / "artifacts" / "generate"
    return {sample.key: sample.files["0.png"] for sample in read_all(folder, load_index(folder))}


def test_a_set_without_views_is_shown_with_the_mask_of_its_attention(workspace: Path) -> None:
    key = load_index(workspace / "artifacts" / "generate").keys[0]
    seen = inspect_set(workspace, key, load_resolved(workspace / "configs" / "recipe.yaml"))
    told = "\n".join(seen.lines)
    assert "appearance   " in told and "published  " in told and "overlap" not in told
    assert decode_png(seen.picture).shape[0] > 500
    with pytest.raises(UnknownSetError, match=f"no set 'nothing'; there are .*{key[:4]}"):
        inspect_set(workspace, "nothing", load_resolved(workspace / "configs" / "recipe.yaml"))


def test_the_rest_of_the_pipeline_takes_it_and_it_verifies(workspace: Path) -> None:
    verdict = verify(workspace, deep=True)
    assert (verdict.problems, verdict.done) == ([], list(load_graph(workspace).names))
    page = (workspace / "artifacts" / "report" / "index.html").read_text()
    assert "No object of this recipe is held out" in page
    assert all(str(record.appearance) in page for record in records(workspace, "shard", PublishedRecord))
    sheet = decode_png((workspace / "artifacts" / "report" / "contact_sheet.png").read_bytes())
    assert np.ptp(sheet) > 0
