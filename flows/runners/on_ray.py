"""Ray: workers of this machine, or a cluster that is there already, with the driver on one of its machines.

    ray start --head                       # on one machine
    ray start --address HOST:6379          # on every other one; all have the workspace

A shard takes one GPU if there are any (Ray shows its worker that one alone), else one CPU. A worker keeps its models.
One that dies loses its shard, which the engine gives out again.
"""

import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from configs.errors import ConfigError
from configs.schema import Runtime
from flows.runners.common import Done, Item, drain
from flows.runners.remote import call_prepared, extra, setup_of, told_of_waiting
from flows.worker import Sealed, gpu_count

if TYPE_CHECKING:
    from prefect_ray import RayTaskRunner

LOOPBACK_VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Read when ray is imported: 0 makes Ray listen on 127.0.0.1 alone, as it does by default on those two systems."""
OBJECT_STORE_BYTES = 100_000_000
"""Receipts are all that passes through it."""


def ray(function: Callable[[Item], Any], jobs: Iterable[Item], runtime: Runtime) -> Iterator[Done]:
    """Workers of Ray through Prefect's RayTaskRunner.

    ConfigError if the extra is not installed, no cluster answers, or it has no GPU for a runtime that asks for one.
    """
    from prefect import task

    with session(runtime) as pool:
        from prefect_ray.context import remote_options
        from ray.exceptions import LocalRayletDiedError, NodeDiedError, ObjectLostError, OutOfMemoryError
        from ray.exceptions import WorkerCrashedError as Crashed

        call = task(call_prepared, name=function.__name__, task_run_name=lambda: "shard", persist_result=False)
        resource, setup = resource_of(runtime), setup_of(runtime)
        # Without max_calls, Ray ends a worker after every job on a GPU, and its models with it.
        options = {"num_cpus": 0, "num_gpus": 0, "max_retries": 0, "max_calls": 0, resource: 1}

        def submit(job: Item) -> Any:
            with remote_options(**options):
                return pool.submit(call, {"function": function, "sealed": Sealed((setup, job))})

        lost = (Crashed, LocalRayletDiedError, NodeDiedError, ObjectLostError, OutOfMemoryError)
        idle = told_of_waiting(runtime, lambda: _total(resource))
        idle()
        yield from drain(submit, jobs, lambda: 2 * max(1, _total(resource)), lost, idle)


@contextmanager
def session(runtime: Runtime) -> Iterator["RayTaskRunner"]:
    """A connection to the runtime's cluster, or to a Ray of this machine that ends with it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    how: dict[str, Any] = {"logging_level": "error"}
    if runtime.cluster is None:
        os.environ[LOOPBACK_VARIABLE] = "0"
        gpus = 0 if runtime.device == "cpu" else gpu_count()
        how |= {"address": "local", "num_cpus": runtime.workers, "num_gpus": min(gpus, runtime.workers)}
        how |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    else:
        _knock(runtime.cluster)
        how |= {"address": runtime.cluster, "runtime_env": {"env_vars": {"OPENBLAS_NUM_THREADS": "1"}}}
    extra("ray", "prefect_ray")
    extra("ray", "ray")
    from prefect_ray import RayTaskRunner

    with ExitStack() as stack:
        try:
            pool = stack.enter_context(RayTaskRunner(init_kwargs=how))
        except ConnectionError as error:
            raise _nobody(runtime.cluster, error) from error
        yield pool


def _knock(cluster: str) -> None:
    """ConfigError unless something listens at HOST:PORT; Ray would go on trying for minutes."""
    host, _, port = cluster.rpartition(":")
    if not host:  # auto: Ray knows of one on this machine, or says at once that it does not
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise _nobody(cluster, error) from error


def _nobody(cluster: str | None, error: Exception) -> ConfigError:
    return ConfigError(f"cluster is {cluster}, and no Ray answers there ({error}); start it with: ray start --head")


def resource_of(runtime: Runtime) -> str:
    """Ray's name for what a shard takes one of; ConfigError if the runtime asks for GPUs that the cluster lacks."""
    if runtime.device == "cpu":
        return "num_cpus"
    if _total("num_gpus"):
        return "num_gpus"
    if runtime.device.startswith("cuda"):
        raise ConfigError(
            f"runtime device is {runtime.device}, and the Ray cluster has no GPU; use device: auto or cpu"
        )
    return "num_cpus"


def _total(resource: str) -> int:
    import ray

    return int(ray.cluster_resources().get(resource.removeprefix("num_").removesuffix("s").upper(), 0))
