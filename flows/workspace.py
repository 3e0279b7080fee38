"""A workspace: a folder with dvc.yaml, configs/recipe.yaml (the active recipe), configs/versions.yaml and .dvc."""

import fcntl
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from configs.errors import ConfigError
from configs.load import RUNTIME_VARIABLE, dump_recipe, load_recipe, load_resolved
from configs.schema import Recipe, Runtime
from data.ids import canonical_json
from data.outside_text import on_terminal
from data.revocation import REVOKED_FILE, Revocations, load_revocations, revocations_text
from data.shards import write_atomic
from data.store import is_url
from flows.dvc_files import mend
from flows.graph import INPUTS_FILE, RECIPE_FILE, VERSIONS_FILE
from flows.inputs import is_path, resolve_paths, write_inputs
from flows.worker import RUN_ID_VARIABLE

PROJECT = Path(__file__).resolve().parents[1]
SIGNING_KEY_VARIABLE = "SYNCD_SIGNING_KEY"
"""Environment variable: the private key that signs statements, instead of the runtime's `signing_key`."""
RECIPE_HEADER = "# The active recipe, complete; written by syncd run, tracked by dvc.yaml.\n"
SECONDS_BETWEEN_LOOKS = 5.0
"""At a workspace that another run holds."""

_held: set[Path] = set()
"""Workspaces that this process has locked."""


def find_workspace(folder: Path) -> Path:
    """`folder` if it is a workspace; ConfigError says how to make one."""
    workspace = folder.resolve()
    for name in ("dvc.yaml", RECIPE_FILE, VERSIONS_FILE, INPUTS_FILE, REVOKED_FILE, ".dvc"):
        if not (workspace / name).exists():
            raise ConfigError(
                f"{workspace} is no workspace: {name} is missing; make one with: "
                f"syncd run --recipe NAME --workspace {folder}"
            )
    return workspace


def choose_recipe(workspace: Path, name: str | None, overrides: tuple[str, ...] = ()) -> Recipe:
    """The recipe of that name or path, else the active one of the workspace, with `overrides` on top.

    Relative paths in it come out relative to the workspace: those of the active recipe are already, all others are
    meant from the current folder.
    """
    if name is None:
        active = workspace / RECIPE_FILE
        if not active.exists():
            raise ConfigError(f"{active}: missing; name a recipe: syncd run --recipe NAME")
        return resolve_paths(load_recipe(str(active), tuple(map(_from_here, overrides))), workspace, workspace)
    return resolve_paths(load_recipe(name, overrides), Path.cwd(), workspace)


def _from_here(override: str) -> str:
    """`assets.folder=PATH` and its like with the path made absolute; a URL is."""
    key, _, value = override.partition("=")
    if is_url(value):
        return override
    return f"{key}={Path(value).resolve()}" if is_path(key.strip()) else override


def prepare_workspace(folder: Path, recipe: Recipe) -> Path:
    """Make or refresh a workspace and activate `recipe` in it."""
    workspace = folder.resolve()
    if workspace != PROJECT:
        _copy_project_files(workspace)
    if not (workspace / ".dvc").exists():
        _init_dvc(workspace)
    write_inputs(recipe, workspace)
    _write_if_changed(workspace / RECIPE_FILE, RECIPE_HEADER + dump_recipe(recipe))
    return find_workspace(workspace)


@contextmanager
def locked(folder: Path, wait_minutes: float = 0) -> Iterator[None]:
    """Keep other runs out of a workspace; ConfigError if one is still in it after `wait_minutes`. May be nested within
    a process.

    The lock ends with the process that holds it, killed or not. On NFS it holds between hosts too, if the server keeps
    locks (no `nolock` or `local_lock` among the mount's options); most object stores behind FUSE keep none.
    """
    workspace = folder.resolve()
    if workspace in _held:
        yield
        return
    path = workspace / "artifacts" / ".lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as stream:
        _take_lock(stream, workspace, wait_minutes)
        stream.truncate(0)
        stream.write(f"{os.getpid()} on {socket.gethostname()}")
        stream.flush()
        mend(workspace)
        _held.add(workspace)
        try:
            yield
        finally:
            _held.discard(workspace)


def _take_lock(stream: IO[str], workspace: Path, wait_minutes: float) -> None:
    """Say once who holds it."""
    deadline = time.monotonic() + 60 * wait_minutes
    told = False
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            stream.seek(0)
            holder = f"{workspace} is in use by process {stream.read().strip() or 'unknown'}"
            left = deadline - time.monotonic()
            if left <= 0:
                waited = f" after {wait_minutes:g} minutes of waiting" if wait_minutes > 0 else ""
                raise ConfigError(f"{holder}{waited}; wait for it, or take another --workspace") from error
        if not told:
            print(on_terminal(f"{holder}; waiting for it, {wait_minutes:g} minutes at most"), flush=True)
            told = True
        time.sleep(min(SECONDS_BETWEEN_LOOKS, left))


def refresh_inputs(workspace: Path) -> None:
    """Record the digests of the files that the active recipe names."""
    write_inputs(load_resolved(find_workspace(workspace) / RECIPE_FILE), workspace)


@contextmanager
def planned_in(folder: Path, recipe: Recipe) -> Iterator[Path]:
    """A workspace in which `recipe` is active: `folder` if it is so there, else one made for the moment.

    With a history of its own, `folder` lends that: what is there is linked, and nothing of it changes, so that batch
    tasks in it see no other recipe than theirs.
    """
    if not (folder / "dvc.yaml").exists():
        with tempfile.TemporaryDirectory(prefix="syncd-plan-") as temporary:
            yield prepare_workspace(Path(temporary), recipe)
        return
    workspace = find_workspace(folder)
    if dump_recipe(load_resolved(workspace / RECIPE_FILE)) == dump_recipe(recipe):
        yield workspace
        return
    with tempfile.TemporaryDirectory(prefix="syncd-plan-") as temporary:
        place = Path(temporary).resolve()
        (place / "configs").mkdir()
        for name in ("", "configs"):
            for path in (workspace / name).iterdir():
                if path.name != "configs" and path not in (workspace / RECIPE_FILE, workspace / INPUTS_FILE):
                    (place / name / path.name).symlink_to(path)
        write_atomic(place / RECIPE_FILE, (RECIPE_HEADER + dump_recipe(recipe)).encode())
        write_inputs(recipe, place)
        yield place


def _copy_project_files(workspace: Path) -> None:
    (workspace / "configs").mkdir(parents=True, exist_ok=True)
    for name in ("dvc.yaml", VERSIONS_FILE, ".dvcignore"):
        source = PROJECT / name
        if not source.exists():
            raise ConfigError(f"{source}: missing; install syncd from a checkout: pip install -e CHECKOUT")
        _write_if_changed(workspace / name, source.read_text(encoding="utf-8"))
    known = load_revocations(workspace) if (workspace / REVOKED_FILE).exists() else Revocations()
    _write_if_changed(workspace / REVOKED_FILE, revocations_text(known))


def _init_dvc(workspace: Path) -> None:
    command = [sys.executable, "-m", "dvc", "init", "--no-scm", "--quiet"]
    done = subprocess.run(command, cwd=workspace, env=quiet_environment(workspace), capture_output=True, text=True)
    if done.returncode:
        raise ConfigError(f"{workspace}: dvc init failed: {done.stderr.strip()}")
    shared = (PROJECT / ".dvc" / "config").read_text(encoding="utf-8")
    write_atomic(workspace / ".dvc" / "config", shared.replace("[core]\n", "[core]\n    no_scm = true\n").encode())


def _write_if_changed(path: Path, text: str) -> None:
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_atomic(path, text.encode())


def _last_run_path(workspace: Path, stage: str) -> Path:
    return workspace / "artifacts" / ".work" / stage / "last_run.json"


def queued_mark(workspace: Path, stage: str) -> Path:
    """A file that is there while failed keys of the stage wait to be tried again."""
    return workspace / "artifacts" / ".work" / stage / "queued"


def write_last_run(workspace: Path, stage: str, error: str | None, transient: bool = False) -> None:
    """Leave word for the outer flow that this stage ran under the current run id, and how it ended: its error, and
    whether the same may go well later."""
    path = _last_run_path(workspace, stage)
    path.parent.mkdir(parents=True, exist_ok=True)
    if error is None:
        queued_mark(workspace, stage).unlink(missing_ok=True)
    said = {"run_id": os.environ.get(RUN_ID_VARIABLE, ""), "error": error, "transient": transient}
    write_atomic(path, canonical_json(said))


def read_last_run(workspace: Path, stage: str) -> dict[str, Any]:
    path = _last_run_path(workspace, stage)
    return json.loads(path.read_bytes()) if path.exists() else {}


def quiet_environment(workspace: Path) -> dict[str, str]:
    """The environment for Prefect, DVC and the stages: hermetic and quiet, unless the caller has said otherwise."""
    defaults = {
        "PREFECT_HOME": str(workspace / ".prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "true",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "600",
        "DO_NOT_TRACK": "1",
        "DVC_NO_ANALYTICS": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",
    }
    environment = {**defaults, **os.environ}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return environment


def run_environment(workspace: Path, runtime: Runtime, run_id: str) -> dict[str, str]:
    """The environment of `dvc repro`: runtime settings travel here, since in a command they would be tracked."""
    environment = quiet_environment(workspace)
    environment[RUNTIME_VARIABLE] = runtime.model_dump_json()
    environment[RUN_ID_VARIABLE] = run_id
    key = signing_key(runtime)
    if key is not None:
        environment[SIGNING_KEY_VARIABLE] = str(key)
    if runtime.prefect_api_url:
        environment["PREFECT_API_URL"] = runtime.prefect_api_url
    if runtime.offline:
        environment["HF_HUB_OFFLINE"] = "1"
    return environment


def signing_key(runtime: Runtime) -> Path | None:
    """File of the private key that signs statements, absolute: a relative path is meant from the current folder."""
    named = os.environ.get(SIGNING_KEY_VARIABLE) or runtime.signing_key
    return Path(named).expanduser().resolve() if named else None
