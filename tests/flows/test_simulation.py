"""The simulation runs the real engine at any size, and what the engine does grows with the shards, never their square.

Growth is counted (files read, bytes hashed, receipts parsed), not timed.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_workspace import RUNTIME, bare_workspace
from fake_workspace import digests as published_digests

from configs.errors import ConfigError
from configs.load import dump_recipe
from data import shards
from data.shards import Receipt, ShardWriter, load_index, receipt_path
from flows import engine, history, plan
from flows.engine import run_stage
from flows.graph import RECIPE_FILE, load_graph
from flows.history import receipts_in, stage_state, work_folder
from flows.runners import serial
from flows.simulation import measured, run, world
from flows.simulation.run import take_receipts
from flows.simulation.table import promise_table, promises, stage_table
from flows.simulation.world import PACKAGE, STAGES, World, chosen_stages, recipe_of, write_world

SMALL = ("train.steps=20", *(f"{stage}.shard_size=8" for stage in STAGES if stage not in ("train", "report")))
QUICK = RUNTIME.model_copy(update={"workers": 1})


def simulated(folder: Path, objects: int, stages: tuple[str, ...] = STAGES, *overrides: str) -> Path:
    """A workspace without DVC."""
    bare_workspace(folder)
    (folder / RECIPE_FILE).write_text(dump_recipe(recipe_of("flux-rigid", objects, (*SMALL, *overrides))))
    write_world(folder, World(objects, failing=50), stages)
    return folder


def run_all(folder: Path, stages: tuple[str, ...]) -> None:
    for stage in stages:
        run_stage(stage, folder, QUICK, serial, package=PACKAGE)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = simulated(tmp_path_factory.mktemp("simulation"), 120)
    run_all(folder, STAGES)
    return folder


def test_every_stage_of_the_chain_is_published_with_records_that_the_next_one_can_read(finished: Path) -> None:
    keys = {stage: len(load_index(finished / "artifacts" / stage).keys) for stage in STAGES}
    objects = 120 - 2
    assert keys["assets"] == keys["prompts"] == objects
    assert keys["render"] == keys["generate"] == keys["score"] == keys["select"] == 2 * objects
    assert keys["shard"] == 2 * objects - 12, "the first set of every tenth object is dropped"
    assert (finished / "artifacts" / "report" / "index.html").stat().st_size > 10_000


def test_the_ledger_lists_samples_of_the_published_dataset(finished: Path) -> None:
    found = measured.ledger(finished, measured.ALL, QUICK)
    assert found["steps"] == 20 and found["used"] >= 1
    published = set(load_index(finished / "artifacts" / "shard").keys)
    rows = [json.loads(line) for line in (finished / "artifacts/train/ledger.jsonl").read_text().splitlines()]
    assert {own["set"] for row in rows for own in row["samples"]} <= published


def counted(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> Counter[str]:
    """Calls of a function, by the ending of the file that it is given."""
    calls: Counter[str] = Counter()
    known: Callable[..., object] = getattr(owner, name)

    def call(first: object, *arguments: object, **named: object) -> object:
        calls[getattr(first, "suffix", "")] += 1
        return known(first, *arguments, **named)

    monkeypatch.setattr(owner, name, call)
    return calls


def scan_reads(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Files that planning prompts and looking for its finished shards reads."""
    ctx = measured.context(folder, "prompts", QUICK)
    specs = engine.plan_shards(measured_module("prompts"), ctx)
    with monkeypatch.context() as patched:
        hashed = counted(patched, shards, "sha256_file")
        read = counted(patched, Path, "read_bytes")
        assert len(engine.finished_shards(ctx, specs)) == len(specs)
    assert not hashed
    return read


def measured_module(stage: str) -> object:
    from flows.worker import stage_module

    return stage_module(PACKAGE, stage)


def test_a_resumed_run_reads_one_receipt_per_shard_and_no_tar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for objects, receipts in ((40, 5), (160, 20)):
        folder = simulated(tmp_path / str(objects), objects, ("assets", "prompts"))
        run_all(folder, ("assets", "prompts"))
        assert scan_reads(folder, monkeypatch) == {".json": receipts}


def test_what_was_there_before_is_read_once_before_it_is_published_and_what_was_made_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = simulated(tmp_path, 160, ("assets",))
    run_all(folder, ("assets",))
    assert take_receipts(folder, "assets", share_done=0.9) == 2
    verified = counted(monkeypatch, shards, "verify_size")
    hashed = counted(monkeypatch, shards, "sha256_file")
    result = run_stage("assets", folder, QUICK, serial, package=PACKAGE)
    assert (result.shards, result.reused) == (20, 18)
    assert verified[".tar"] == 2 * 18, "at the scan and at publication"
    assert hashed[".tar"] == 18 and sum(hashed.values()) == 18 + 2, "the temporary files of new shards end in .tmp"


@pytest.mark.parametrize("harm", ["flip", "cut", "delete"])
def test_a_tar_that_is_not_what_its_receipt_says_is_never_published(tmp_path: Path, harm: str) -> None:
    folder = simulated(tmp_path, 80, ("assets",))
    run_all(folder, ("assets",))
    before = published_digests(folder, "assets")
    tar = work_folder(folder, "assets", load_index(folder / "artifacts" / "assets").signature) / "000003.tar"
    stat, data = tar.stat(), bytearray(tar.read_bytes())
    tar.unlink()
    if harm != "delete":
        data[600] ^= 1
        tar.write_bytes(data if harm == "flip" else data[:-512])
        os.utime(tar, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    result = run_stage("assets", folder, QUICK, serial, package=PACKAGE)
    assert result.reused == 9
    assert published_digests(folder, "assets") == before


def test_progress_is_not_counted_anew_after_every_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    whole = counted(monkeypatch, engine, "_progress")
    folder = simulated(tmp_path, 160, ("assets",))
    run_stage("assets", folder, QUICK, serial, seen.append, PACKAGE)
    assert whole.total() == 1
    assert [progress.shards_done for progress in seen] == list(range(21))
    assert (seen[-1].keys_done, seen[-1].keys_total, seen[-1].failed) == (160, 160, 3)


def test_a_stage_opens_every_shard_of_its_input_as_often_at_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for objects in (40, 160):
        folder = simulated(tmp_path / str(objects), objects, ("assets", "prompts"))
        run_all(folder, ("assets",))
        with monkeypatch.context() as patched:
            read = counted(patched, Path, "read_bytes")
            run_stage("prompts", folder, QUICK, serial, package=PACKAGE)
        inputs_and_finalize = 2 * (objects // 8)
        assert read[".tar"] == inputs_and_finalize + _shards_that_straddle(folder)


def _shards_that_straddle(folder: Path) -> int:
    """Failed assets shift the keys of prompts, so that some of its shards need two of assets."""
    place = {key: entry.name for entry in load_index(folder / "artifacts/assets").shards for key in entry.keys}
    prompts = load_index(folder / "artifacts/prompts").shards
    return sum(len({place[key] for key in entry.keys}) - 1 for entry in prompts)


def test_the_state_of_a_finished_stage_needs_few_receipts(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "PACE_RECEIPTS", 4)
    parsed = counted(monkeypatch, Receipt, "model_validate_json")
    state = stage_state(load_graph(finished), "render", finished)
    assert (state.state, state.shards, state.keys) == ("done", 15, 236)
    assert state.pace is not None and state.pace.keys_per_shard == pytest.approx(236 / 15, rel=0.1)
    assert parsed.total() == 4


def test_shards_beyond_a_million_have_receipts_too(tmp_path: Path) -> None:
    for index in (7, 999_999, 1_000_000):
        with ShardWriter(tmp_path, "render", "a" * 64, index) as out:
            out.add(f"key-{index}", {})
            out.finish()
    (tmp_path / "plan.json").write_text("{}")
    assert [receipt.index for receipt in receipts_in(tmp_path)] == [7, 999_999, 1_000_000]
    assert receipt_path(tmp_path, 1_000_000).name == "1000000.json"


def test_the_command_measures_every_stage_and_says_which_targets_are_met(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but Prefect, DVC and the fresh processes."""
    stages = chosen_stages("prompts")
    monkeypatch.setattr(run, "RUNNERS", ("serial",))
    monkeypatch.setattr(run, "prepare", lambda folder, world, recipe, stages: simulated(folder, 120, stages))
    monkeypatch.setattr(plan, "dvc_status", lambda workspace: {"assets": ["changed"]})

    def here(lab: run._Lab, *arguments: str) -> None:
        if arguments[1] == "flows.simulation.measured":
            monkeypatch.chdir(lab.workspace)
            assert measured.main(list(arguments[2:])) == 0

    monkeypatch.setattr(run._Lab, "_call", here)
    found = run.simulate(tmp_path / "new", World(120), recipe_of("flux-rigid", 120, SMALL), QUICK, 0.8, stages)
    assert [row.stage for row in found.stages] == ["assets", "prompts"]
    for row in found.stages:
        assert row.shards == 15 and row.scan.counts == {"shards": 15, "done": 12}
        assert row.resume.counts["made"] == 3 and row.resume.counts["publish_s"] > 0
        assert row.index_bytes > 0 and row.statement_bytes > 0 and row.run.peak_mb > 0
    assert found.runners["serial"].counts["shards"] == 15
    assert found.plan.counts["would_run"] == 2 and found.verify.counts == {"problems": 0}
    table = stage_table(found)
    assert {len(row) for row in table} == {15} and len(table) == 3
    told = {row[0]: row for row in promise_table(found)}
    assert told["plan and resume-scan of all stages"][2:] == ["at most 10", "s", "met"]
    assert told["peak memory of a scan"][2] == "at most 500"
    assert {item.unit for item in promises(found)} == {"s", "MB", "% of 60 s"}
    assert json.loads(json.dumps(found.as_json()))["stages"][1]["run"]["counts"]["keys"] == 118


def test_a_simulation_touches_no_folder_that_is_in_use(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(ConfigError, match="is not empty"):
        run.simulate(tmp_path, World(1), recipe_of("flux-rigid", 1), QUICK)
    with pytest.raises(ConfigError, match="evaluate"):
        chosen_stages("evaluate")


def test_a_measure_is_of_a_process_of_its_own(tmp_path: Path) -> None:
    folder = simulated(tmp_path, 40, ("assets",))
    ballast = bytearray(os.urandom(1) * 300_000_000)
    found = run._Lab(folder, QUICK, lambda line: None).measure("run", "assets")
    assert len(ballast) and found.counts["made"] == 5
    assert 10 < found.base_mb <= found.peak_mb < 200


def test_sleeping_is_no_overhead(tmp_path: Path) -> None:
    folder = simulated(tmp_path, 16, ("assets",))
    write_world(folder, World(16, sleep_s=0.2), ("assets",))
    measure = measured.measured(lambda: measured.run(folder, "assets", QUICK))
    assert measure.wall_s > 2 * 0.2 and measure.cpu_s < measure.wall_s
    shutil.rmtree(folder / "artifacts")
    assert world.world_of(folder).sleep_s == 0.2
