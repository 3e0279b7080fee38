"""Workers of a cluster: one that would make other bytes, or share its GPU, is refused with what to do about it."""

import os
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest
from fake_workspace import RUNTIME

from configs.errors import ConfigError
from flows import worker
from flows.runners import on_dask, on_ray, remote
from flows.runners.remote import WorkerError
from flows.worker import Sealed

SETUP = remote.setup_of(RUNTIME.model_copy(update={"threads_per_worker": 3}))
THERE = replace(SETUP, local=False, device="auto")


@pytest.fixture(autouse=True)
def fresh_worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a process that has had no job yet; what jobs set is taken back."""
    remote.prepare.cache_clear()
    with pytest.MonkeyPatch.context() as kept:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", worker.RUN_ID_VARIABLE):
            kept.setenv(name, "1")
        kept.setenv(worker.WORKER_VARIABLE, "0")
        kept.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        yield
    remote.prepare.cache_clear()


def plus_one(number: int) -> int:
    return number + 1


def test_a_worker_takes_over_the_drivers_run_and_threads() -> None:
    setup = replace(SETUP, environment=((worker.RUN_ID_VARIABLE, "run-7"),))
    assert remote.call_prepared(plus_one, Sealed((setup, 1))).value == 2
    assert os.environ[worker.RUN_ID_VARIABLE] == "run-7"
    assert os.environ["OMP_NUM_THREADS"] == "3"


def test_a_worker_with_other_code_than_the_driver_makes_nothing() -> None:
    with pytest.raises(WorkerError, match=r"other code, or other versions of .*torch.* than the driver.*start the"):
        remote.prepare(replace(SETUP, build="0" * 64))


def test_a_worker_whose_numpy_adds_with_many_threads_makes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    with pytest.raises(WorkerError, match="start it with OPENBLAS_NUM_THREADS=1"):
        remote.prepare(SETUP)


def test_no_key_of_the_driver_passes_the_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "secret")
    assert "secret" not in repr(remote.setup_of(RUNTIME))


def test_dask_workers_of_this_machine_take_its_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "gpu_count", lambda: 2)
    taken = []
    for name in range(4):
        on_dask.fit(SimpleNamespace(name=name), SETUP)
        taken.append(worker.resolve_device("auto"))
    assert taken == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]


def test_a_dask_worker_that_makes_two_shards_at_a_time_is_refused() -> None:
    two = SimpleNamespace(address="tcp://host:1", state=SimpleNamespace(nthreads=2))
    with pytest.raises(WorkerError, match=r"tcp://host:1 makes 2 shards at a time.*--nthreads 1"):
        on_dask.fit(two, THERE)


def test_a_dask_worker_that_sees_many_gpus_must_be_told_which_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_dask, "gpu_count", lambda: 8)
    one = SimpleNamespace(address="tcp://host:1", state=SimpleNamespace(nthreads=1))
    with pytest.raises(WorkerError, match=r"sees 8 GPUs.*dask cuda worker"):
        on_dask.fit(one, THERE)
    on_dask.fit(one, replace(THERE, device="cpu"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4,5,6,7,0,1,2")
    on_dask.fit(one, THERE)


def test_ray_gives_a_shard_one_gpu_where_there_are_any(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"num_gpus": 4, "num_cpus": 64}
    monkeypatch.setattr(on_ray, "_total", there.__getitem__)
    assert on_ray.resource_of(RUNTIME) == "num_gpus"
    assert on_ray.resource_of(RUNTIME.model_copy(update={"device": "cpu"})) == "num_cpus"
    there["num_gpus"] = 0
    assert on_ray.resource_of(RUNTIME) == "num_cpus"
    with pytest.raises(ConfigError, match="device is cuda, and the Ray cluster has no GPU"):
        on_ray.resource_of(RUNTIME.model_copy(update={"device": "cuda"}))


def test_a_missing_extra_is_named_with_its_installation() -> None:
    with pytest.raises(ConfigError, match=r"runner is dask, and no_such_package is not installed.*'syncd\[dask\]'"):
        remote.extra("dask", "no_such_package")
