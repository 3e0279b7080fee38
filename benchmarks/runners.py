"""What a runner costs beside the work: seconds to its first shard, and milliseconds for each one after that.

    python -m benchmarks.runners [--shards 200] [--workers 2] [--runners serial thread process dask ray]

A shard here holds one empty record: a tar and its receipt, synced and renamed by the function that makes real shards.
Each runner has a driver process and a workspace of its own, and reports to one Prefect server that is there already.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.common import markdown
from data.shards import ShardWriter, write_atomic
from data.stage import ShardSpec, StageContext
from flows.worker import PLAN_FILE, Job, make_shard
from flows.workspace import quiet_environment

NAMES = ("serial", "thread", "process", "dask", "ray")
SERVER_SECONDS = 120


def run_shard(ctx: StageContext, spec: ShardSpec, out: ShardWriter) -> None:
    """The stage, which this module is: an empty record for every key."""
    for key in spec.keys:
        out.add(key, {})


def jobs(folder: Path, shards: int) -> Iterator[Job]:
    ctx = StageContext(stage="runners", recipe=None, workspace=folder, signature="0" * 64)  # type: ignore[arg-type]
    ctx.work_dir.mkdir(parents=True)
    write_atomic(ctx.work_dir / PLAN_FILE, b"{}")
    for index in range(shards):
        spec = ShardSpec(index, (f"key-{index:06d}",))
        yield Job(ctx, spec, "benchmarks", retries=0, pause_seconds=0, min_free_bytes=0, expected_bytes=0)


def measure(name: str, folder: Path, shards: int, workers: int) -> dict[str, float]:
    """Seconds from the call to the first receipt, from there to the last, and from there to the end."""
    from configs.schema import Runtime
    from flows.runners import RUNNERS, serial

    runtime = Runtime(runner="thread" if name == "serial" else name, workers=workers, threads_per_worker=1)  # type: ignore[arg-type]
    runner = {"serial": serial, **RUNNERS}[name]
    seen, start = [], time.monotonic()
    for _, result in runner(make_shard, jobs(folder, shards), runtime):
        if isinstance(result, Exception):
            raise result
        seen.append(time.monotonic())
    return {"first": seen[0] - start, "rest": seen[-1] - seen[0], "end": time.monotonic() - seen[-1]}


def measured_apart(name: str, shards: int, workers: int, environment: dict[str, str]) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix=f"syncd-{name}-") as folder:
        options = ["--shards", str(shards), "--workers", str(workers), "--one", name, "--folder", folder]
        command = [sys.executable, "-m", "benchmarks.runners", *options]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def prefect_server(environment: dict[str, str]) -> Iterator[str]:
    """Address of a server that is ready, on 127.0.0.1."""
    import socket

    import httpx

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address, deadline = f"http://127.0.0.1:{port}/api", time.monotonic() + SERVER_SECONDS
    try:
        while True:
            try:
                httpx.get(f"{address}/health").raise_for_status()
                break
            except httpx.HTTPError as error:
                if server.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"no Prefect server at {address}: {error}") from error
                time.sleep(0.2)
        yield address
    finally:
        server.terminate()
        server.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shards", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runners", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--one", choices=NAMES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.folder, options.shards, options.workers)), flush=True)
        return
    with tempfile.TemporaryDirectory(prefix="syncd-prefect-") as home:
        environment = {**quiet_environment(Path(home)), "PYTHONPATH": os.pathsep.join(sys.path)}
        with prefect_server(environment) as address:
            environment["PREFECT_API_URL"] = address
            found = {
                name: measured_apart(name, options.shards, options.workers, environment) for name in options.runners
            }
    rows = [
        [name, f"{took['first']:.1f}", f"{1000 * took['rest'] / (options.shards - 1):.0f}", f"{took['end']:.1f}"]
        for name, took in found.items()
    ]
    print(markdown(["runner", "first shard, s", "each further one, ms", "end, s"], rows))


if __name__ == "__main__":
    main()
