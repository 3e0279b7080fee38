"""Runners: ways to do many jobs at once, all of one signature. What they produce is the same; receipts prove it.

    runner(function, jobs, runtime) -> iterator of (job, result or exception), in order of completion

`function` is a plain function of an importable module: Prefect pickles it by name, so that a worker process keeps the
models it has loaded from one shard to the next. A runner takes jobs as it needs them, some more than it has workers.
"""

from configs.schema import Runtime
from flows.runners.common import Runner, WorkerLostError
from flows.runners.local import process, serial, thread
from flows.runners.on_dask import dask
from flows.runners.on_ray import ray

__all__ = ["RUNNERS", "Runner", "WorkerLostError", "dask", "fitting", "process", "ray", "serial", "thread"]

RUNNERS: dict[str, Runner] = {"thread": thread, "process": process, "dask": dask, "ray": ray}


def fitting(runner: Runner, jobs: int, runtime: Runtime) -> Runner:
    """`runner`, or for a single job `thread`, since starting processes of this machine costs seconds.

    Not on a cluster that is there already: its workers may have what this machine lacks.
    """
    alone = jobs == 1 and runner in (process, dask, ray) and runtime.cluster is None
    return thread if alone else runner
