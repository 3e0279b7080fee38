"""Runners: every one produces the same files, reports every job, and survives a worker that dies."""

import os
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, Future
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from fake_tasks import attempts
from fake_workspace import RUNTIME, bare_workspace, digests, make_trouble
from prefect import task_runners

from configs.schema import Runtime
from flows import engine, runners
from flows.crashes import crashes_in
from flows.engine import StageError, run_stage
from flows.history import receipts_in
from flows.runners import RUNNERS, Runner, common, serial
from flows.runners.common import drain
from flows.runners.remote import told_of_waiting

ALONE = RUNTIME.model_copy(update={"workers": 1})


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = bare_workspace(tmp_path_factory.mktemp("serial"))
    run_stage("assets", folder, RUNTIME, serial, package="fake_tasks")
    return digests(folder, "assets")


@pytest.mark.parametrize(("name", "workers"), [("thread", 1), ("thread", 2), ("process", 2)])
def test_any_runner_with_any_number_of_workers_gives_the_same_bytes(
    tmp_path: Path, prefect_server: str, reference: dict[str, str], name: str, workers: int
) -> None:
    bare_workspace(tmp_path)
    runtime = RUNTIME.model_copy(update={"workers": workers})
    result = run_stage("assets", tmp_path, runtime, RUNNERS[name], package="fake_tasks")
    assert result.shards == 4
    assert digests(tmp_path, "assets") == reference


def test_a_worker_that_dies_is_replaced_and_only_its_shards_run_again(
    tmp_path: Path, prefect_server: str, reference: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    make_trouble(bare_workspace(tmp_path), crash={"index": 3, "error": "die", "times": 1})
    run_stage("assets", tmp_path, ALONE, RUNNERS["process"], package="fake_tasks")
    assert digests(tmp_path, "assets") == reference
    assert "a worker process died" in capsys.readouterr().err
    assert [attempts(tmp_path).count(f"assets-{index}") for index in range(4)] == [1, 1, 1, 2]


def test_workers_that_keep_dying_end_the_stage(tmp_path: Path) -> None:
    bare_workspace(tmp_path)

    def dying(function: object, jobs: object, runtime: Runtime) -> Iterator[tuple[object, Exception]]:
        for job in jobs:  # type: ignore[attr-defined]
            yield job, runners.WorkerLostError("killed")

    with pytest.raises(StageError, match=r"worker processes died 3 times.*--workers"):
        run_stage("assets", tmp_path, RUNTIME, dying, package="fake_tasks")  # type: ignore[arg-type]


def process_id(_: int) -> int:
    return os.getpid()


def fails_on_two(number: int) -> int:
    if number == 2:
        raise ValueError("two")
    return number * 10


@pytest.mark.parametrize("runner", [serial, runners.thread], ids=["serial", "thread"])
def test_an_exception_is_the_result_of_its_job_only(prefect_server: str, runner: Runner) -> None:
    done = dict(runner(fails_on_two, [1, 2, 3], RUNTIME))
    assert done[1] == 10 and done[3] == 30
    assert isinstance(done[2], ValueError)


def test_no_more_than_a_window_of_jobs_is_taken_from_the_queue(prefect_server: str) -> None:
    taken = 0

    def jobs() -> Iterator[int]:
        nonlocal taken
        for number in range(12):
            taken += 1
            yield number

    ahead = []
    for finished, _ in enumerate(runners.thread(process_id, jobs(), RUNTIME), start=1):
        ahead.append(taken - finished)
    assert taken == 12
    assert max(ahead) <= 2 * RUNTIME.workers


def test_worker_processes_are_renewed_so_that_memory_cannot_grow_for_ever(prefect_server: str) -> None:
    runtime = ALONE.model_copy(update={"max_tasks_per_worker": 2})
    processes = [process for _, process in runners.process(process_id, range(4), runtime)]
    assert processes[0] == processes[1] != processes[2] == processes[3]
    assert os.getpid() not in processes


def test_a_shard_is_blamed_for_a_death_only_if_it_was_alone(tmp_path: Path) -> None:
    """A pool of two that breaks whenever shard 2 is among its jobs, and takes all of them with it."""
    folder, windows = bare_workspace(tmp_path), []

    def breaking(function: Any, jobs: Any, runtime: Runtime) -> Iterator[tuple[Any, Any]]:
        for first in jobs:
            window = [first, *islice(jobs, 2 * runtime.workers - 1)]
            windows.append([job.spec.index for job in window])
            dies = 2 in windows[-1]
            yield from [(job, runners.WorkerLostError("killed") if dies else function(job)) for job in window]

    with pytest.raises(StageError, match="shard 2: worker processes died 3 times while they had it"):
        run_stage("assets", folder, RUNTIME, breaking, package="fake_tasks")
    assert windows == [[0, 1, 2, 3], [0, 1, 2, 3], [0], [1], [2]]
    (crashes,) = folder.glob("artifacts/.work/assets/*/crashes.jsonl")
    assert crashes_in(crashes.parent) == {"killed": 1}, "none of the others had been begun"
    assert len(receipts_in(crashes.parent)) == 2


@pytest.mark.parametrize("name", ["process", "dask", "ray"])
def test_a_single_job_starts_no_process_of_this_machine(name: str) -> None:
    runner = RUNNERS[name]
    assert runners.fitting(runner, 1, RUNTIME) is runners.thread
    assert runners.fitting(runner, 2, RUNTIME) is runner
    there = RUNTIME.model_copy(update={"runner": name, "cluster": "127.0.0.1:1"})
    assert runners.fitting(runner, 1, there) is runner


def test_a_shard_that_kills_its_workers_is_never_made_in_the_drivers_process(
    tmp_path: Path, prefect_server: str
) -> None:
    make_trouble(bare_workspace(tmp_path), crash={"index": 3, "error": "die"})
    with pytest.raises(StageError, match=r"shard 3: worker processes died 2 times while they had it"):
        run_stage("assets", tmp_path, ALONE.model_copy(update={"retries": 1}), RUNNERS["process"], package="fake_tasks")
    assert [attempts(tmp_path).count(f"assets-{index}") for index in range(4)] == [1, 1, 1, 2]


def test_a_pool_that_breaks_while_a_job_is_given_to_it_loses_that_job_alone() -> None:
    def submit(job: int) -> Future[int]:
        if job == 2:
            raise BrokenExecutor("broken")
        future: Future[int] = Ended()
        future.set_result(job)
        return future

    done = dict(drain(submit, range(4), lambda: 3, (BrokenExecutor,)))
    assert isinstance(done.pop(2), runners.WorkerLostError)
    assert done == {0: 0, 1: 1, 3: 3}


def test_a_run_that_nobody_works_for_says_so_once_each_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(common, "IDLE_SECONDS", 0.001)
    job, workers = Ended(), [2, 0, 0, 1, 0]

    def count() -> int:
        if len(workers) == 1:
            job.set_result(7)
        return workers.pop(0)

    idle = told_of_waiting(RUNTIME.model_copy(update={"cluster": "tcp://there:8786"}), count)
    assert list(drain(lambda _: job, ["a"], lambda: 1, (), idle)) == [("a", 7)]
    assert capsys.readouterr().err.count("WARNING: tcp://there:8786 has no workers; waiting for one") == 2


class Ended(Future[int]):
    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> int:
        return super().result(timeout)


def test_threads_per_shard_follow_from_the_plan_and_not_from_the_workers() -> None:
    for workers in (1, 2, 16):
        runtime = Runtime(workers=workers)
        assert engine.threads_per_worker(runtime, 1) == os.cpu_count()
        assert engine.threads_per_worker(runtime, 1000) == 1
    assert engine.threads_per_worker(Runtime(threads_per_worker=3), 1000) == 3


def test_python_does_not_wait_for_a_queue_that_a_killed_worker_may_have_locked(
    prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    queues = []

    class Watched(task_runners.ProcessPoolTaskRunner):
        def __exit__(self, *of: object) -> None:
            queues.append(self._subprocess_message_queue)
            super().__exit__(*of)

    monkeypatch.setattr(task_runners, "ProcessPoolTaskRunner", Watched)
    assert len(list(runners.process(process_id, range(2), RUNTIME))) == 2
    (queue,) = queues
    assert queue._joincancelled and queue._jointhread is None
