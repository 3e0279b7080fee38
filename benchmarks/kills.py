"""Runs killed at random moments and resumed: what they end in must be the bytes of a run that nobody disturbed.

    python -m benchmarks.kills --kills 200                      # two fake stages, engine alone: no second is idle
    python -m benchmarks.kills --kills 20 --through pipeline    # the same stages under DVC and Prefect
    python -m benchmarks.kills --kills 5 --through recipe       # a small real run of the miniature, to the dataset

SIGKILL goes to the whole process group of a run, at a moment drawn over the length of an undisturbed one. Under
`pipeline` every third kill hits the driver alone: then nobody of its family may go on. A killed run is resumed to its
end, and compared: every file of every stage, the chain of statements, the signatures. Finished shards must not be made
again: their receipts are the files that they were at the kill.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

from configs.load import RUNTIME_VARIABLE
from configs.schema import Runtime
from data.chain import verify_chain
from data.provenance import statement_path
from data.shards import sha256_file
from data.signing import envelope_path, make_keys, pinned_keys
from flows.engine import run_stage
from flows.runners import serial
from flows.signing import signature_states
from tests.fake_workspace import RUNTIME, TESTS, bare_workspace, dvc_workspace, make_trouble, subprocess_environment

FAKE_STAGES = ("assets", "prompts")
REAL_STAGES = ("assets", "prompts", "render", "generate", "score", "select", "shard")
SECONDS_PER_KEY = 0.01
REAL_SETTINGS = (
    "assets.count=6",
    "render.shard_size=2",
    "generate.shard_size=2",
    "generate.steps=4",
    "select.min_quality=-10",
    "select.min_identity=-1",
    "select.max_identity=1",
)
SECONDS_FOR_ORPHANS = 30.0


class Run(Protocol):
    """A run in progress: a subprocess.Popen, or Forked."""

    pid: int

    def poll(self) -> int | None: ...
    def wait(self) -> int: ...


@dataclass(frozen=True)
class Way:
    """How runs are made: a workspace to copy, and what starts a run in one, as the leader of a process group."""

    stages: tuple[str, ...]
    template: Path
    start: Callable[[Path], Run]
    dvc: bool
    driver_alone: bool
    """Whether every third kill hits the driver alone."""


@dataclass(frozen=True)
class Kill:
    phase: str
    alone: bool
    finished: int
    """Shards with a receipt at the kill."""
    remade: int
    """Of those, shards that were made again."""
    orphans: int
    """Processes that still ran long after their driver was killed."""
    problems: tuple[str, ...]
    """What was wrong at the end; empty if everything is as in the undisturbed run."""


class Forked:
    """A child of this process that runs the fake stages: a new interpreter would take longer than the work."""

    def __init__(self, workspace: Path, runtime: Runtime) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            self._run(workspace, runtime)
        with suppress(PermissionError, ProcessLookupError):  # parent and child both do this; either may come first
            os.setpgid(self.pid, self.pid)
        self.returncode: int | None = None

    def _run(self, workspace: Path, runtime: Runtime) -> None:
        code = 1
        try:
            with suppress(PermissionError, ProcessLookupError):  # parent and child both do this; either may come first
                os.setpgid(0, 0)
            for stage in FAKE_STAGES:
                run_stage(stage, workspace, runtime, serial, package="fake_tasks")
            code = 0
        except BaseException:
            (workspace / "error.txt").write_text(traceback.format_exc())
        finally:
            os._exit(code)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode


def way_of(name: str, folder: Path, private: Path) -> Way:
    template = folder / "template"
    runtime = RUNTIME.model_copy(update={"signing_key": str(private)})
    environment = subprocess_environment() | {RUNTIME_VARIABLE: runtime.model_dump_json()}

    def popen(command: list[str]) -> subprocess.Popen[bytes]:
        log = (folder / "log.txt").open("ab")
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)

    if name == "recipe":
        from benchmarks.common import pipeline_command

        template.mkdir()
        return Way(
            REAL_STAGES,
            template,
            lambda workspace: popen(pipeline_command(workspace, "demo", "shard", 2, REAL_SETTINGS)),
            dvc=True,
            driver_alone=False,
        )
    made = dvc_workspace(template) if name == "pipeline" else bare_workspace(template)
    make_trouble(made, sleep=SECONDS_PER_KEY)
    if name == "stages":
        for stage in FAKE_STAGES:  # digests of code and packages, computed once: forks inherit them
            run_stage(
                stage,
                Path(shutil.copytree(made, folder / "warm", dirs_exist_ok=True)),
                RUNTIME,
                serial,
                package="fake_tasks",
            )
        return Way(FAKE_STAGES, made, lambda workspace: Forked(workspace, runtime), dvc=False, driver_alone=False)
    code = "import sys; from flows.regenerate import regenerate; regenerate(workspace=sys.argv[1])"
    return Way(
        FAKE_STAGES,
        made,
        lambda workspace: popen([sys.executable, "-c", code, str(workspace)]),
        dvc=True,
        driver_alone=True,
    )


def digests(workspace: Path, stages: tuple[str, ...]) -> dict[str, str]:
    """sha256 of every published file."""
    files = (path for stage in stages for path in (workspace / "artifacts" / stage).rglob("*") if path.is_file())
    return {path.relative_to(workspace).as_posix(): sha256_file(path) for path in sorted(files)}


def receipts(workspace: Path) -> dict[Path, tuple[int, int]]:
    """Receipts by path, with inode and time of change: another one was written anew."""
    found = workspace.glob("artifacts/.work/*/*/[0-9]*.json")
    return {path: (stat.st_ino, stat.st_mtime_ns) for path in found for stat in [path.stat()]}


def phase_of(workspace: Path, way: Way) -> str:
    """How far a run had come, by what it left."""
    lock = workspace / "dvc.lock"
    locked = lock.read_text() if lock.exists() else ""
    for stage in way.stages:
        work = workspace / "artifacts" / ".work" / stage
        if not list(work.glob("*/plan.json")):
            return f"before {stage}"
        if not statement_path(workspace, stage).exists():
            index = workspace / "artifacts" / stage / "index.json"
            return f"{stage}: {'statement' if index.exists() else 'shards and publishing'}"
        if not envelope_path(workspace, stage).exists():
            return f"{stage}: signature"
        if way.dvc and f"artifacts/provenance/{stage}.intoto.json" not in locked:
            return f"{stage}: recording by DVC"
    return "after the last stage"


def undisturbed(way: Way, folder: Path, pinned: dict[str, object]) -> tuple[dict[str, str], float]:
    """Digests of a run that nobody kills, and its seconds."""
    workspace = Path(shutil.copytree(way.template, folder / "undisturbed", symlinks=True))
    clock = time.monotonic()
    run = way.start(workspace)
    code = run.wait()
    if code:
        raise RuntimeError(f"the undisturbed run ended with {code}; see {folder}")
    seconds = time.monotonic() - clock
    problems = faults(workspace, way, pinned)
    if problems:
        raise RuntimeError(f"the undisturbed run does not verify: {problems[0]}")
    return digests(workspace, way.stages), seconds


def faults(workspace: Path, way: Way, pinned: dict[str, object]) -> list[str]:
    states = [state for state in signature_states(workspace, pinned) if state.stage in way.stages]
    return verify_chain(workspace, way.stages) + [state.problem for state in states if state.problem]


def kill_once(
    way: Way, workspace: Path, after: float, alone: bool, reference: dict[str, str], pinned: dict[str, object]
) -> Kill | None:
    """Run, kill, resume, compare; None if the run had ended before its kill."""
    shutil.copytree(way.template, workspace, symlinks=True)
    run = way.start(workspace)
    time.sleep(after)
    if run.poll() is not None:
        return None
    family = psutil.Process(run.pid).children(recursive=True) if alone else []
    (os.kill if alone else os.killpg)(run.pid, signal.SIGKILL)
    run.wait()
    _, orphans = psutil.wait_procs(family, timeout=SECONDS_FOR_ORPHANS)
    for orphan in orphans:
        orphan.kill()
    phase, before = phase_of(workspace, way), receipts(workspace)
    resumed = way.start(workspace)
    code = resumed.wait()
    now = receipts(workspace)
    problems = [f"the resumed run ended with {code}"] if code else faults(workspace, way, pinned)
    if not code:
        found = digests(workspace, way.stages)
        problems += [f"{name} differs" for name in reference.keys() | found if reference.get(name) != found.get(name)]
    remade = sum(now.get(path) != stamp for path, stamp in before.items())
    return Kill(phase, alone, len(before), remade, len(orphans), tuple(problems))


def campaign(way: Way, kills: int, seed: int, folder: Path, public: Path, minutes: float) -> tuple[list[Kill], float]:
    """At most `kills` kills within `minutes`, and the seconds of an undisturbed run. Workspaces with problems stay."""
    pinned = pinned_keys([public])
    reference, seconds = undisturbed(way, folder, pinned)
    rng, done, deadline = random.Random(seed), [], time.monotonic() + 60 * minutes
    attempt = 0
    while len(done) < kills and time.monotonic() < deadline:
        workspace = folder / f"run-{attempt:04d}"
        attempt += 1
        alone = way.driver_alone and len(done) % 3 == 2
        kill = kill_once(way, workspace, rng.uniform(0, seconds), alone, reference, pinned)
        if kill is not None:
            done.append(kill)
        if kill is None or not kill.problems:
            shutil.rmtree(workspace)
    return done, seconds


def report(done: list[Kill], seconds: float) -> str:
    from benchmarks.common import markdown

    rows = []
    for phase, count in sorted(Counter(kill.phase for kill in done).items()):
        here = [kill for kill in done if kill.phase == phase]
        numbers = (
            count,
            sum(kill.alone for kill in here),
            sum(kill.finished for kill in here),
            sum(kill.remade for kill in here),
            sum(kill.orphans for kill in here),
            sum(bool(kill.problems) for kill in here),
        )
        rows.append([phase, *map(str, numbers)])
    head = ["killed in", "kills", "driver alone", "finished shards", "made twice", "left running", "mismatches"]
    totals = ["all", *(str(sum(int(row[place]) for row in rows)) for place in range(1, len(head)))]
    lines = [markdown(head, [*rows, totals]), f"undisturbed run: {seconds:.1f} s"]
    return "\n".join(
        [*lines, *(f"MISMATCH {kill.phase}: {'; '.join(kill.problems)}" for kill in done if kill.problems)]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--through", choices=("stages", "pipeline", "recipe"), default="stages")
    parser.add_argument("--minutes", type=float, default=60, help="stop after so many, with fewer kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=None, help="for the runs; those with a mismatch stay there")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="syncd-kills-"))
    sys.path.insert(0, str(TESTS))
    private, public = make_keys(folder / "keys", None)
    with one_server(folder) if options.through == "pipeline" else nullcontext():
        way = way_of(options.through, folder, private)
        done, seconds = campaign(way, options.kills, options.seed, folder, public, options.minutes)
    print(report(done, seconds))
    sys.exit(1 if any(kill.problems or kill.remade or kill.orphans for kill in done) else 0)


@contextmanager
def one_server(folder: Path) -> Iterator[None]:
    """A Prefect server for all runs: its start would take most of the time of each."""
    from flows.workspace import quiet_environment

    os.environ.update(quiet_environment(folder))
    from prefect.client.orchestration import get_client
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=600):
        os.environ["PREFECT_API_URL"] = str(get_client(sync_client=True).api_url)
        yield


if __name__ == "__main__":
    main()
