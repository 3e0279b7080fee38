"""`python -m flows.simulation.measured STEP [STAGE]`: one step in a process of its own, with what it cost.

The result is kept in artifacts/.work/.simulation/STEP-STAGE.json, so that DVC may stand between. Memory is that of this
process alone: `base_mb` with the stage's code loaded, `peak_mb` at the highest.
"""

import argparse
import json
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from configs.load import load_runtime
from configs.schema import Runtime
from data.ids import canonical_json
from data.shards import write_atomic
from data.stage import StageContext
from flows.simulation.world import PACKAGE, STAGES

Counts = dict[str, float]
RUNNER_SHARDS = 200
ALL = "all"


@dataclass(frozen=True)
class Measure:
    """`cpu_s` is of this process and its children."""

    wall_s: float
    cpu_s: float
    base_mb: float
    peak_mb: float
    counts: Counts


def measure_path(workspace: Path, step: str, stage: str) -> Path:
    return workspace / "artifacts" / ".work" / ".simulation" / f"{step}-{stage}.json"


def read_measure(workspace: Path, step: str, stage: str) -> Measure:
    return Measure(**json.loads(measure_path(workspace, step, stage).read_bytes()))


def _memory_mb(field: str) -> float:
    """VmRSS or VmHWM: unlike getrusage, nothing of the process that started this one."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def _cpu_s() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def measured(call: Callable[[], Counts]) -> Measure:
    base, wall, cpu = _memory_mb("VmRSS"), time.perf_counter(), _cpu_s()
    counts = call()
    return Measure(time.perf_counter() - wall, _cpu_s() - cpu, base, _memory_mb("VmHWM"), counts)


@contextmanager
def timed(module: ModuleType, name: str, spent: Counts) -> Iterator[None]:
    """Add the wall and CPU time of a function of a module to `spent`, as NAME_s and NAME_cpu_s."""
    known = getattr(module, name)

    def call(*arguments: Any, **named: Any) -> Any:
        wall, cpu = time.perf_counter(), _cpu_s()
        try:
            return known(*arguments, **named)
        finally:
            spent[f"{name}_s"] = spent.get(f"{name}_s", 0.0) + time.perf_counter() - wall
            spent[f"{name}_cpu_s"] = spent.get(f"{name}_cpu_s", 0.0) + _cpu_s() - cpu

    setattr(module, name, call)
    try:
        yield
    finally:
        setattr(module, name, known)


def context(workspace: Path, stage: str, runtime: Runtime) -> StageContext:
    from flows.engine import stage_context
    from flows.graph import load_graph

    return stage_context(load_graph(workspace), stage, workspace, runtime)


def run(workspace: Path, stage: str, runtime: Runtime) -> Counts:
    """The whole stage, one shard after the other: plan, shards, publication, statement."""
    from flows import engine
    from flows.console import stage_progress
    from flows.runners import serial

    spent: Counts = {}
    with (
        timed(engine, "changed_shards", spent),
        timed(engine, "publish", spent),
        timed(engine, "state", spent),
        stage_progress(stage, runtime.log_level) as show,
    ):
        result = engine.run_stage(stage, workspace, runtime, serial, show.update, PACKAGE)
        show.finish(result)
    return {"shards": result.shards, "made": result.shards - result.reused, "keys": result.keys, **spent}


def scan(workspace: Path, stage: str, runtime: Runtime) -> Counts:
    """Plan a stage and find out which of its shards are done."""
    from flows.engine import finished_shards, plan_shards
    from flows.worker import stage_module

    ctx = context(workspace, stage, runtime)
    specs = plan_shards(stage_module(PACKAGE, stage), ctx)
    return {"shards": len(specs), "done": len(finished_shards(ctx, specs))}


def runner(workspace: Path, name: str, runtime: Runtime) -> Counts:
    """RUNNER_SHARDS shards of assets that do not sleep, through a runner; the first ones, in which workers start, are
    not in `shard_s`, the wall time of one."""
    from prefect import flow

    from flows import engine
    from flows.runners import RUNNERS, serial
    from flows.worker import make_shard, stage_module

    ctx = context(workspace, "assets", runtime)
    specs = engine.plan_shards(stage_module(PACKAGE, "assets"), ctx)[:RUNNER_SHARDS]
    ctx = replace(ctx, signature=name.ljust(16, "-"))
    engine.write_plan(ctx, specs)
    quick = runtime.model_copy(update={"threads_per_worker": 1})
    ends: list[float] = []

    def body() -> None:
        jobs = (engine.make_job(ctx, spec, quick, PACKAGE, 0) for spec in specs)
        for _, result in {**RUNNERS, "serial": serial}[name](make_shard, jobs, quick):
            if isinstance(result, Exception):
                raise result
            ends.append(time.perf_counter())

    try:
        (body if name == "serial" else flow(body, name="simulate", persist_result=False))()
    finally:
        shutil.rmtree(ctx.work_dir, ignore_errors=True)
    first = min(4 * runtime.workers, len(ends) // 2)
    return {"shards": len(ends), "shard_s": (ends[-1] - ends[first]) / max(1, len(ends) - 1 - first)}


def ledger(workspace: Path, stage: str, runtime: Runtime) -> Counts:
    """Whether one sample was used in the training, from the ledger alone."""
    path = workspace / "artifacts" / "train" / "ledger.jsonl"
    rows, used, sought = 0, 0, None
    with path.open("rb") as stream:
        for line in stream:
            row = json.loads(line)
            sought = sought or row["samples"][0]["target"]
            rows += 1
            used += any(sought in (own["target"], *own["references"]) for own in row["samples"])
    return {"bytes": path.stat().st_size, "steps": rows, "used": used}


def status(workspace: Path, stage: str, runtime: Runtime) -> Counts:
    from flows.status import status as stage_states

    return {"stages": len(stage_states(workspace))}


def make_plan(workspace: Path, stage: str, runtime: Runtime) -> Counts:
    from flows import plan as planning

    spent: Counts = {}
    with timed(planning, "dvc_status", spent):
        planned = planning.make_plan(workspace, runtime, package=PACKAGE)
    return {"stages": len(planned), "would_run": sum(item.would_run for item in planned), **spent}


def verify(workspace: Path, stage: str, runtime: Runtime) -> Counts:
    """Every digest of every stage again, as `syncd verify` does."""
    from data.chain import verify_chain
    from flows.graph import load_graph

    return {"problems": len(verify_chain(workspace, load_graph(workspace).names))}


STEPS: dict[str, Callable[[Path, str, Runtime], Counts]] = {
    step.__name__: step for step in (run, scan, runner, ledger, status, make_plan, verify)
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m flows.simulation.measured", description=__doc__)
    parser.add_argument("step", choices=sorted(STEPS))
    parser.add_argument("stage", nargs="?", default=ALL, help="of runner: the runner's name")
    options = parser.parse_args(arguments)
    workspace, runtime = Path.cwd(), load_runtime()
    if options.stage in STAGES:
        from flows.worker import stage_module

        stage_module(PACKAGE, options.stage)
    found = measured(lambda: STEPS[options.step](workspace, options.stage, runtime))
    path = measure_path(workspace, options.step, options.stage)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, canonical_json(asdict(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
