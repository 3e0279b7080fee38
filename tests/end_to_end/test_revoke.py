"""The take-down drill: an object goes, what it touched is told, and only its shards are made again."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from syncd_command import syncd

from configs.load import load_resolved, load_runtime
from data.ids import object_of
from data.shards import load_index
from flows.engine import stage_context
from flows.graph import load_graph
from tasks import train

STAGES = ("assets", "prompts", "render", "generate", "score", "select", "shard")
SMALL = (
    "assets.count=8",
    "assets.eval_share=0.25",
    "generate.steps=2",
    "select.min_quality=-10",
    "select.min_identity=-1",
    "select.max_identity=1",
    "train.steps=4",
    *(f"{stage}.shard_size=2" for stage in STAGES),
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("revoke")
    settings = [word for setting in SMALL for word in ("--set", setting)]
    made = syncd(folder, "run", "--recipe", "demo", *settings, "--until", "train", "--workers", "1")
    assert made.returncode == 0, made.stderr[-4000:]
    return folder


def shards(workspace: Path) -> dict[str, dict[str, str]]:
    return {
        stage: {entry.name: entry.sha256 for entry in load_index(workspace / "artifacts" / stage).shards}
        for stage in STAGES
    }


def test_the_drill(workspace: Path) -> None:
    before, artifacts = shards(workspace), workspace / "artifacts"
    published = load_index(artifacts / "shard")
    gone = object_of(published.shards[1].keys[0])
    lines = (artifacts / "train" / "ledger.jsonl").read_text().splitlines()
    draws = sum(object_of(own["set"]) == gone for line in lines for own in json.loads(line)["samples"])
    holding = {
        stage: {entry.name for entry in load_index(artifacts / stage).shards if any(gone in key for key in entry.keys)}
        for stage in STAGES
    }

    told = syncd(workspace, "revoke", "--asset", gone, "--reason", "asked for by its author", "--dry-run")
    assert told.returncode == 0, told.stderr
    assert f"{draws} times as target" in told.stdout if draws else "checkpoint" not in told.stdout
    assert shards(workspace) == before

    done = syncd(workspace, "revoke", "--asset", gone, "--reason", "asked for by its author", "--purge", "-n", "1")
    assert done.returncode == 0, done.stderr[-3000:]
    after = shards(workspace)
    for stage in STAGES:
        index = load_index(artifacts / stage)
        assert not [key for key in index.keys if gone in (key, object_of(key))]
        assert {name for name in before[stage] if after[stage].get(name) != before[stage][name]} == holding[stage]
        assert len(holding[stage]) == 1 < len(before[stage])
    (stone,) = yaml.safe_load((workspace / "configs" / "revoked.yaml").read_text())["tombstones"]
    assert (stone["object_id"], stone["reason"]) == (gone, "asked for by its author")
    assert [object_of(name) for name in stone["sets"]] == [gone]
    # The checkpoint of before stays, with the ledger that names what it was trained on.
    left = [path for path in workspace.rglob("*.tar") if "train" not in path.parts]
    assert not [path for path in left if gone.encode() in path.read_bytes()], "purged"
    assert "in artifacts/audit what was said of it in words" in done.stdout
    assert "train" in syncd(workspace, "plan").stdout
    again = syncd(workspace, "revoke", "--asset", gone, "--reason", "asked for by its author")
    assert again.returncode == 0 and "is revoked" in again.stdout
    shutil.rmtree(artifacts / ".work" / "render")
    kept = load_index(artifacts / "assets").keys[0]
    told = syncd(workspace, "revoke", "--asset", kept, "--reason", "x", "--dry-run")
    assert "render: its work folder is gone" in told.stderr and "assets:" not in told.stderr
    unknown = syncd(workspace, "revoke", "--asset", gone[:-1], "--reason", "x")
    assert unknown.returncode == 2 and "no object of" in unknown.stderr


def test_training_refuses_a_dataset_with_revoked_sets(workspace: Path) -> None:
    key = load_index(workspace / "artifacts" / "shard").keys[0]
    path = workspace / "configs" / "revoked.yaml"
    kept = path.read_text()
    path.write_text(yaml.safe_dump({**yaml.safe_load(kept), "objects": [object_of(key)]}))
    try:
        ctx = stage_context(load_graph(workspace), "train", workspace, load_runtime("local"))
        with pytest.raises(ValueError, match=rf"holds 1 sets of revoked objects \({key}\)"):
            train.plan(ctx)
    finally:
        path.write_text(kept)
    assert load_resolved(workspace / "configs" / "recipe.yaml").train.steps == 4
