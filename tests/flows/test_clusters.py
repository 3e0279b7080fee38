"""Dask and Ray, for real: equal bytes, models kept, workers and drivers killed in mid-shard, nothing left behind."""

import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from fake_models import look
from fake_tasks import attempts
from fake_workspace import RUNTIME, TESTS, bare_workspace, digests, make_trouble, subprocess_environment

from configs.errors import ConfigError
from configs.load import RUNTIME_VARIABLE
from configs.schema import Runtime
from data.shards import load_index
from flows import engine
from flows.engine import StageError, run_stage
from flows.history import receipts_in
from flows.runners import RUNNERS, on_dask, on_ray, serial

pytest.importorskip("prefect_dask")
pytest.importorskip("prefect_ray")
SHARDS = 4


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = bare_workspace(tmp_path_factory.mktemp("serial"))
    run_stage("assets", folder, RUNTIME, serial, package="fake_tasks")
    return digests(folder, "assets")


def family() -> set[psutil.Process]:
    """Living processes that this one has started, but for the one that Python keeps for itself."""
    found = set()
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # of which a zombie is one
            if "multiprocessing.resource_tracker" not in " ".join(child.cmdline()):
                found.add(child)
    return found


def heard_from_outside(processes: set[psutil.Process]) -> list[str]:
    """Addresses other than the machine's own on which any of these listens."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            found += process.net_connections("inet")
    listening = [connection.laddr.ip for connection in found if connection.status == psutil.CONN_LISTEN]
    assert listening
    return [address for address in listening if address.removeprefix("::ffff:") not in ("127.0.0.1", "::1")]


@contextmanager
def dask_cluster(server: str) -> Iterator[Runtime]:
    """A scheduler and 3 workers that were there before the driver, as on a cluster."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=3, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster:
        address = {"cluster": cluster.scheduler_address, "prefect_api_url": server}
        yield RUNTIME.model_copy(update={"runner": "dask", **address})


@contextmanager
def ray_cluster(server: str) -> Iterator[Runtime]:
    """Ray of this process with 2 workers and, as far as it knows, 2 GPUs. The address is for other drivers."""
    before = family()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(on_ray, "gpu_count", lambda: 2)
        patch.setenv("PYTHONPATH", subprocess_environment()["PYTHONPATH"])
        with on_ray.session(RUNTIME.model_copy(update={"runner": "ray"})):
            import ray  # not earlier: it would listen on every address

            started = family() - before
            assert heard_from_outside(started) == []
            address = {"cluster": ray.get_runtime_context().gcs_address, "prefect_api_url": server}
            yield RUNTIME.model_copy(update={"runner": "ray", **address})
    psutil.wait_procs(started, timeout=20)
    assert not [process for process in started if process.is_running()]


@pytest.fixture(scope="module", params=[dask_cluster, ray_cluster], ids=["dask", "ray"])
def cluster(request: pytest.FixtureRequest, prefect_server: str) -> Iterator[Runtime]:
    with request.param(prefect_server) as runtime:
        yield runtime


def test_a_cluster_gives_the_bytes_of_one_worker(tmp_path: Path, cluster: Runtime, reference: dict[str, str]) -> None:
    bare_workspace(tmp_path)
    run_stage("assets", tmp_path, cluster, package="fake_tasks")
    assert digests(tmp_path, "assets") == reference
    assert Counter(attempts(tmp_path)) == {f"assets-{index}": 1 for index in range(SHARDS)}


def test_a_worker_loads_its_model_once_and_has_its_threads(cluster: Runtime) -> None:
    runtime = cluster.model_copy(update={"threads_per_worker": 3})
    seen = [result for _, result in RUNNERS[cluster.runner](look, range(12), runtime)]
    assert len(seen) > len({job.process for job in seen})
    assert len({(job.process, job.model) for job in seen}) == len({job.process for job in seen})
    assert {job.threads for job in seen} == {"3"}
    if cluster.runner == "ray":
        assert {job.gpus for job in seen} <= {"0", "1"}


def test_a_worker_killed_in_mid_shard_loses_that_shard_alone_and_shows_no_half_of_it(
    tmp_path: Path, cluster: Runtime, reference: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_trouble(bare_workspace(tmp_path), crash={"index": 1, "error": "die", "times": 1, "after": 2})
    told: list[str] = []

    def warn(message: str) -> None:
        told.append(message)
        assert list(tmp_path.rglob(".000001.tar.*.tmp"))
        assert not list(tmp_path.rglob("000001.*"))

    monkeypatch.setattr(engine, "warn", warn)
    run_stage("assets", tmp_path, cluster, package="fake_tasks")
    assert digests(tmp_path, "assets") == reference
    assert Counter(attempts(tmp_path)) == {f"assets-{index}": 1 + (index == 1) for index in range(SHARDS)}
    if cluster.runner == "ray":
        assert any("shard 1: a worker process died" in message for message in told)
    assert not list(tmp_path.rglob("*.tmp")) and not list(tmp_path.rglob("*.lock"))


def test_a_driver_killed_in_mid_shard_is_followed_by_one_that_loses_and_repeats_nothing(
    tmp_path: Path, cluster: Runtime, reference: dict[str, str]
) -> None:
    make_trouble(bare_workspace(tmp_path), sleep=0.5)
    environment = {**subprocess_environment(), RUNTIME_VARIABLE: cluster.model_dump_json()}
    driver = subprocess.Popen([sys.executable, str(TESTS / "fake_driver.py"), "assets"], cwd=tmp_path, env=environment)
    work = tmp_path / "artifacts" / ".work" / "assets"
    while not (done := [path for path in work.glob("*/00000?.json")]):
        assert driver.poll() is None
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    kept = {path: path.stat().st_mtime_ns for path in done}
    assert len(kept) < SHARDS
    assert not (tmp_path / "artifacts" / "assets").exists()
    result = run_stage("assets", tmp_path, cluster, package="fake_tasks")
    assert result.reused >= len(kept)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert digests(tmp_path, "assets") == reference
    tries = Counter(attempts(tmp_path))
    assert all(tries[f"assets-{int(path.stem)}"] == 1 for path in kept)
    if cluster.runner == "dask":  # its workers outlive the driver: what they had begun they finish, and nobody else
        assert set(tries.values()) == {1}
    assert {path.name for path in (tmp_path / "artifacts" / "assets").glob("*.tar")} == {
        entry.name for entry in load_index(tmp_path / "artifacts" / "assets").shards
    }
    assert not list(tmp_path.rglob("*.tmp"))
    assert len(receipts_in(next(path for path in work.iterdir() if path.is_dir()))) == SHARDS


def test_dask_of_this_machine_replaces_a_killed_worker_and_is_gone_afterwards(
    tmp_path: Path, prefect_server: str, reference: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    make_trouble(bare_workspace(tmp_path), crash={"index": 1, "error": "die", "times": 1, "after": 1})
    before, outside = family(), []

    def watch(progress: engine.Progress) -> None:
        if progress.shards_done:
            outside.append(heard_from_outside(family() - before))

    runtime = RUNTIME.model_copy(update={"runner": "dask", "workers": 3})
    run_stage("assets", tmp_path, runtime, on_progress=watch, package="fake_tasks")
    assert digests(tmp_path, "assets") == reference
    assert "shard 1: a worker process died (KilledWorker); giving it out again" in capsys.readouterr().err
    assert outside and not any(outside)
    assert family() <= before


def test_workers_without_the_workspace_say_so(tmp_path: Path, cluster: Runtime) -> None:
    bare_workspace(tmp_path)

    def elsewhere(function: object, jobs: object, runtime: Runtime) -> Iterator[tuple[object, object]]:
        yield from RUNNERS[cluster.runner](function, moved_away(jobs), runtime)  # type: ignore[arg-type]

    def moved_away(jobs: object) -> Iterator[object]:
        for job in jobs:  # type: ignore[attr-defined]
            shutil.rmtree(job.ctx.work_dir, ignore_errors=True)
            yield job

    with pytest.raises(StageError, match=r"does not see it; the workspace must lie on storage that every machine has"):
        run_stage("assets", tmp_path, cluster, elsewhere, package="fake_tasks")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("session", "cluster", "words"),
    [
        (on_dask.session, "tcp://127.0.0.1:9", "no Dask scheduler answers there .*dask scheduler"),
        (on_ray.session, "127.0.0.1:9", "no Ray answers there .*ray start --head"),
    ],
    ids=["dask", "ray"],
)
def test_a_cluster_that_does_not_answer_is_named(
    session: Callable[[Runtime], AbstractContextManager[object]], cluster: str, words: str
) -> None:
    import dask

    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(ConfigError, match=f"cluster is {cluster}, and {words}"),
        session(RUNTIME.model_copy(update={"cluster": cluster})),
    ):
        pass
