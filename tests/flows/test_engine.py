"""The engine's promises: equal bytes, resume, receipts by signature, budgets, retries, the disk."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from fake_tasks import attempts
from fake_workspace import (
    RUNTIME,
    TESTS,
    activate,
    bare_workspace,
    digests,
    make_trouble,
    no_trouble,
    subprocess_environment,
)

from configs.schema import Runtime
from data.provenance import statement_path
from data.shards import ShardError, load_index, receipt_path
from flows import engine, requeue, worker
from flows.engine import StageResult, run_stage
from flows.graph import UntrackedError, load_graph
from flows.history import receipts_in
from flows.requeue import requeue_failed
from flows.runners import serial
from flows.worker import DiskFullError, StageError
from flows.workspace import queued_mark
from models.training.settings import Settings


def run(folder: Path, stage: str = "assets", runtime: Runtime = RUNTIME) -> StageResult:
    return run_stage(stage, folder, runtime, serial, package="fake_tasks")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "PAUSE_SECONDS", 0.0)


def work_folder(folder: Path, stage: str = "assets") -> Path:
    return next(path for path in (folder / "artifacts" / ".work" / stage).iterdir() if path.is_dir())


def test_a_stage_is_published_whole_with_an_index_that_vouches_for_every_file(tmp_path: Path) -> None:
    result = run(bare_workspace(tmp_path))
    out = tmp_path / "artifacts" / "assets"
    index = load_index(out)
    assert (result.shards, result.keys, result.reused, result.failed) == (4, 10, 0, {})
    assert index.keys == [f"object-{number:03d}" for number in range(10)]
    listed = {entry.name: entry.sha256 for entry in [*index.shards, *index.files]}
    found = digests(tmp_path, "assets")
    del found["index.json"]
    assert found == listed
    assert {"notes.txt", "failures.jsonl", "metrics.json", "000003.tar"} <= set(listed)


def test_published_shards_are_links_so_that_no_space_is_spent_twice(tmp_path: Path) -> None:
    run(bare_workspace(tmp_path))
    assert (tmp_path / "artifacts/assets/000000.tar").samefile(work_folder(tmp_path) / "000000.tar")


def test_finished_shards_are_not_made_again(tmp_path: Path) -> None:
    run(bare_workspace(tmp_path))
    first = digests(tmp_path, "assets")
    receipt_path(work_folder(tmp_path), 2).unlink()
    result = run(tmp_path)
    assert result.reused == 3
    assert attempts(tmp_path)[4:] == ["assets-2"]
    assert digests(tmp_path, "assets") == first


def test_a_receipt_under_another_signature_is_not_honoured(tmp_path: Path) -> None:
    run(bare_workspace(tmp_path))
    assert run(activate(tmp_path, "seed=1")).reused == 0
    assert run(activate(tmp_path)).reused == 4


def test_a_receipt_copied_from_another_signature_is_not_honoured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(bare_workspace(tmp_path))
    old = work_folder(tmp_path)
    activate(tmp_path, "seed=1")
    ctx = engine.stage_context(load_graph(tmp_path), "assets", tmp_path, RUNTIME)
    ctx.work_dir.mkdir()
    for path in old.glob("00000*"):
        os.link(path, ctx.work_dir / path.name)
    assert run(tmp_path).reused == 0
    assert "made for signature" in capsys.readouterr().err


def test_stages_see_how_to_train_and_nothing_else_of_how_to_run(tmp_path: Path) -> None:
    runtime = RUNTIME.model_copy(update={"trackers": ("tensorboard",), "keep_checkpoints": 4, "peak_tflops": 100.0})
    ctx = engine.stage_context(load_graph(bare_workspace(tmp_path)), "assets", tmp_path, runtime)
    settings = Settings.of(ctx.options)
    assert settings == Settings(trackers=("tensorboard",), keep_checkpoints=4, peak_tflops=100.0)
    assert not {"workers", "runner", "device", "log_level"} & ctx.options.keys()


def test_a_tampered_shard_is_named_and_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(bare_workspace(tmp_path))
    first = digests(tmp_path, "assets")
    tampered = work_folder(tmp_path) / "000001.tar"
    data = bytearray(tampered.read_bytes())
    data[700] ^= 1
    tampered.write_bytes(data)
    result = run(tmp_path)
    warning = capsys.readouterr().err
    assert result.reused == 3
    assert str(tampered) in warning and "WARNING" in warning and "sha256" in warning
    assert digests(tmp_path, "assets") == first


def test_a_shard_killed_in_its_middle_leaves_no_receipt_and_the_rest_resumes(tmp_path: Path) -> None:
    whole = bare_workspace(tmp_path / "whole")
    run(whole)
    killed = bare_workspace(tmp_path / "killed")
    make_trouble(killed, sleep=0.1)
    command = [sys.executable, str(TESTS / "fake_stage.py"), "assets"]
    process = subprocess.Popen(command, cwd=killed, env=subprocess_environment(), start_new_session=True)
    while "assets-2" not in attempts(killed):
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = [receipt.index for receipt in receipts_in(work_folder(killed))]
    assert done == [0, 1]
    assert not (killed / "artifacts" / "assets").exists()
    no_trouble(killed)
    assert run(killed).reused == 2
    assert attempts(killed) == ["assets-2", "assets-3"]
    assert digests(killed, "assets") == digests(whole, "assets")
    assert not list(work_folder(killed).glob(".*.tmp"))


def test_a_failed_key_is_recorded_and_its_shard_completes(tmp_path: Path) -> None:
    make_trouble(bare_workspace(tmp_path), fail=["object-004"])
    result = run(tmp_path)
    assert (result.keys, result.failed) == (9, {"corrupt": 1})
    lines = (tmp_path / "artifacts/assets/failures.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in lines] == ["object-004"]


def test_too_many_failed_keys_stop_the_stage_and_publish_nothing(tmp_path: Path) -> None:
    make_trouble(bare_workspace(tmp_path), fail=["object-001", "object-002", "object-005"])
    with pytest.raises(StageError, match=r"3 of 10 keys failed \(3 corrupt\).*max_failed_fraction 0.2.*object-001"):
        run(tmp_path)
    assert not (tmp_path / "artifacts" / "assets").exists()


def test_a_larger_budget_accepts_the_same_shards_without_making_them_again(tmp_path: Path) -> None:
    make_trouble(bare_workspace(tmp_path), fail=["object-001", "object-002", "object-005"])
    with pytest.raises(StageError):
        run(tmp_path)
    result = run(activate(tmp_path, "assets.max_failed_fraction=0.31"))
    assert (result.reused, result.keys) == (4, 7)


def test_filtered_keys_are_listed_and_spend_no_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_trouble(bare_workspace(tmp_path), fail=["object-001", "object-002", "object-005"])
    monkeypatch.setattr("fake_tasks.assets.FILTERED_REASONS", frozenset({"corrupt"}), raising=False)
    assert run(tmp_path).failed == {"corrupt": 3}


def test_failed_keys_of_a_stage_without_receipts_can_be_queued_and_no_other_shard(tmp_path: Path) -> None:
    make_trouble(bare_workspace(tmp_path), fail=["object-004"])
    run(tmp_path)
    no_trouble(tmp_path)
    assert requeue_failed(tmp_path, "assets", reason="other") == []
    shutil.rmtree(tmp_path / "artifacts" / ".work")
    (tmp_path / "artifacts" / "assets" / "000003.tar").unlink()
    (queued,) = requeue_failed(tmp_path, "assets", package="fake_tasks")
    assert (queued.keys, queued.shards) == (["object-004"], [1, 3]), "the tar of shard 3 is gone"
    assert run(tmp_path).reused == 2
    assert attempts(tmp_path) == ["assets-1", "assets-3"]
    assert load_index(tmp_path / "artifacts" / "assets").failed == []


def test_a_retry_that_was_killed_before_the_stage_was_marked_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_trouble(bare_workspace(tmp_path), fail=["object-004"])
    run(tmp_path)

    def killed(*_: object) -> None:
        raise SystemExit(143)

    with monkeypatch.context() as patch:
        patch.setattr(requeue, "queued_mark", killed)
        with pytest.raises(SystemExit):
            requeue_failed(tmp_path, "assets")
    for _ in range(2):
        (queued,) = requeue_failed(tmp_path, "assets", package="fake_tasks")
        assert (queued.keys, queued.shards) == (["object-004"], [1])
        assert queued_mark(tmp_path, "assets").exists()


@pytest.mark.parametrize("error", ["memory", "flaky"])
def test_a_transient_error_is_tried_again(tmp_path: Path, error: str) -> None:
    make_trouble(bare_workspace(tmp_path), crash={"index": 1, "error": error, "times": 2})
    assert run(tmp_path).keys == 10
    assert attempts(tmp_path).count("assets-1") == 3


def test_a_transient_error_that_stays_ends_the_stage(tmp_path: Path) -> None:
    make_trouble(bare_workspace(tmp_path), crash={"index": 1, "error": "flaky"})
    with pytest.raises(StageError, match=r"shard 1: FlakyError: .*syncd run-shard assets --index 1"):
        run(tmp_path)
    assert attempts(tmp_path).count("assets-1") == 1 + RUNTIME.retries


def test_any_other_error_is_not_tried_again_and_finished_shards_are_kept(tmp_path: Path) -> None:
    make_trouble(bare_workspace(tmp_path), crash={"index": 1, "error": "bug"})
    with pytest.raises(StageError, match="ValueError: a bug"):
        run(tmp_path)
    assert attempts(tmp_path).count("assets-1") == 1
    assert [receipt.index for receipt in receipts_in(work_folder(tmp_path))] == [0]


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="mounts a tmpfs")
def test_a_full_disk_is_named_and_leaves_no_half_file(tmp_path: Path) -> None:
    work = tmp_path / "artifacts" / ".work"
    work.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(work)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs: {mounted.stderr.decode()}")
    try:
        bare_workspace(tmp_path, "assets.count=400", "assets.shard_size=60")
        with pytest.raises(DiskFullError, match=rf"{work}.*free.*needed.*finished shards are kept"):
            run(tmp_path)
        assert not [path for path in work.rglob("*") if path.name.endswith(".tmp")]
        kept = {receipt.name for receipt in receipts_in(work_folder(tmp_path))}
        assert {path.name for path in work.rglob("*.tar")} == kept
    finally:
        subprocess.run(["umount", str(work)], check=True)


def test_no_shard_is_begun_below_the_free_space_that_the_runtime_keeps(tmp_path: Path) -> None:
    bare_workspace(tmp_path)
    with pytest.raises(DiskFullError, match="min_free_disk_gb"):
        run(tmp_path, runtime=RUNTIME.model_copy(update={"min_free_disk_gb": 1e9}))
    assert attempts(tmp_path) == []


def test_a_full_disk_is_not_tried_again(tmp_path: Path) -> None:
    make_trouble(bare_workspace(tmp_path), crash={"index": 0, "error": "disk"})
    with pytest.raises(DiskFullError, match="no space left"):
        run(tmp_path)
    assert attempts(tmp_path) == ["assets-0"]


def test_a_stage_sees_only_the_part_of_the_recipe_that_is_tracked_for_it(tmp_path: Path) -> None:
    graph = load_graph(bare_workspace(tmp_path))
    ctx = engine.stage_context(graph, "assets", tmp_path, RUNTIME)
    assert ctx.recipe.assets.count == 10
    with pytest.raises(UntrackedError, match=r"recipe\.train"):
        _ = ctx.recipe.train


def test_a_stage_waits_for_its_input(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="syncd run --until assets"):
        run(bare_workspace(tmp_path), "prompts")


def test_a_stage_that_loses_a_key_is_caught(tmp_path: Path) -> None:
    bare_workspace(tmp_path)
    graph = load_graph(tmp_path)
    ctx = engine.stage_context(graph, "assets", tmp_path, RUNTIME)
    module = worker.stage_module("fake_tasks", "assets")
    spec = module.plan(ctx)[0]
    with pytest.raises(StageError, match=r"missing \['zebra'\]"):
        worker.check_accounted("assets", replace(spec, keys=(*spec.keys, "zebra")), list(spec.keys), [])


def test_publishing_again_keeps_the_statement_so_that_later_ones_stay_valid(tmp_path: Path) -> None:
    run(bare_workspace(tmp_path))
    first = statement_path(tmp_path, "assets").read_bytes()
    statement_path(tmp_path, "assets").unlink()
    time.sleep(1.1)
    run(tmp_path)
    assert statement_path(tmp_path, "assets").read_bytes() == first
