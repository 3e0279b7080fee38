"""A take-down: the revoked object is gone, shards without it are taken as they are, and the bytes are those of a run
that never had it."""

from pathlib import Path

import pytest
from fake_tasks import attempts
from fake_workspace import RUNTIME, activate, bare_workspace, digests, tombstone

from data.chain import verify_stage
from data.revocation import REVOKED, Revocations, write_revocations
from data.shards import load_index
from flows.engine import run_stage
from flows.requeue import requeue_failed
from flows.runners import serial

STAGES = ("assets", "prompts")


def revoke(folder: Path, *objects: str) -> None:
    revocations = Revocations()
    for name in objects:
        revocations = revocations.adding([tombstone(name)])
    write_revocations(folder, revocations)


def run(folder: Path) -> list[str]:
    """Attempts at shards that it took."""
    before = len(attempts(folder))
    for stage in STAGES:
        run_stage(stage, folder, RUNTIME, serial, package="fake_tasks")
    return attempts(folder)[before:]


def test_only_shards_with_a_revoked_key_are_made_again(tmp_path: Path) -> None:
    folder = bare_workspace(tmp_path / "one")
    assert len(run(folder)) == 8
    before = digests(folder, "prompts")
    revoke(folder, "object-004")
    assert run(folder) == ["assets-1", "prompts-1"]
    assert {name for name, digest in digests(folder, "prompts").items() if digest == before[name]} >= {
        "000000.tar",
        "000002.tar",
        "000003.tar",
    }
    fresh = bare_workspace(tmp_path / "fresh")
    revoke(fresh, "object-004")
    run(fresh)
    for stage in STAGES:
        assert digests(folder, stage) == digests(fresh, stage)
        index = load_index(folder / "artifacts" / stage)
        assert "object-004" not in index.keys and len(index.keys) == 9
        assert [(failure.key, failure.reason) for failure in index.failed] == [("object-004", REVOKED)]
        assert verify_stage(folder, stage) == []


def test_a_second_take_down_carries_on_from_the_first(tmp_path: Path) -> None:
    folder = bare_workspace(tmp_path)
    run(folder)
    revoke(folder, "object-004")
    run(folder)
    revoke(folder, "object-004", "object-007")
    assert run(folder) == ["assets-2", "prompts-2"]
    assert len(load_index(folder / "artifacts" / "prompts").keys) == 8


def test_a_shard_of_nothing_but_revoked_keys_is_empty(tmp_path: Path) -> None:
    folder = bare_workspace(tmp_path)
    revoke(folder, "object-009")
    run(folder)
    (*_, last) = load_index(folder / "artifacts" / "prompts").shards
    assert last.keys == []


@pytest.mark.parametrize("change", ["recipe", "gc"])
def test_nothing_is_carried_that_differs_otherwise(tmp_path: Path, change: str) -> None:
    """By a changed recipe as well, or because nothing is left to carry."""
    folder = bare_workspace(tmp_path)
    run(folder)
    revoke(folder, "object-004")
    if change == "recipe":
        activate(folder, "seed=5")
    else:
        for path in (folder / "artifacts" / ".work").rglob("*.json"):
            path.unlink()
    assert len(run(folder)) == 8


def test_a_tampered_tar_is_not_carried(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = bare_workspace(tmp_path)
    run(folder)
    (tar,) = (folder / "artifacts" / ".work" / "assets").glob("*/000002.tar")
    data = bytearray(tar.read_bytes())
    data[600] ^= 1
    tar.chmod(0o644)
    tar.write_bytes(bytes(data))
    revoke(folder, "object-004")
    assert "assets-2" in run(folder)


def test_a_revoked_key_is_not_tried_again(tmp_path: Path) -> None:
    folder = bare_workspace(tmp_path)
    revoke(folder, "object-004")
    run(folder)
    assert requeue_failed(folder) == []
