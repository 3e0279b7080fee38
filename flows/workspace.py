"""A workspace: a folder with dvc.yaml, configs/recipe.yaml (the active recipe), configs/versions.yaml and .dvc."""

import os
import subprocess
import sys
from pathlib import Path

from configs.schema import RUNTIME_VARIABLE, ConfigError, Recipe, Runtime, dump_recipe
from data.shards import write_atomic
from flows.graph import INPUTS_FILE, RECIPE_FILE, VERSIONS_FILE
from flows.inputs import resolve_paths, write_inputs
from flows.worker import RUN_ID_VARIABLE

PROJECT = Path(__file__).resolve().parents[1]
RECIPE_HEADER = "# The active recipe, complete; written by syncd run, tracked by dvc.yaml.\n"


def find_workspace(folder: Path) -> Path:
    """`folder` if it is a workspace; ConfigError says how to make one."""
    workspace = folder.resolve()
    for name in ("dvc.yaml", RECIPE_FILE, VERSIONS_FILE, INPUTS_FILE, ".dvc"):
        if not (workspace / name).exists():
            raise ConfigError(
                f"{workspace} is no workspace: {name} is missing; make one with: "
                f"syncd run --recipe NAME --workspace {folder}"
            )
    return workspace


def prepare_workspace(folder: Path, recipe: Recipe | None) -> Path:
    """Make or refresh a workspace and activate `recipe` in it (None: the one that is active there).

    Paths in the recipe are taken relative to the current folder.
    """
    workspace = folder.resolve()
    if workspace != PROJECT:
        _copy_project_files(workspace)
    if not (workspace / ".dvc").exists():
        _init_dvc(workspace)
    if recipe is not None:
        recipe = resolve_paths(recipe, Path.cwd(), workspace)
        _write_if_changed(workspace / RECIPE_FILE, RECIPE_HEADER + dump_recipe(recipe))
    elif not (workspace / RECIPE_FILE).exists():
        raise ConfigError(f"{workspace / RECIPE_FILE}: missing; name a recipe: syncd run --recipe NAME")
    else:
        from configs.schema import load_resolved

        recipe = load_resolved(workspace / RECIPE_FILE)
    write_inputs(recipe, workspace)
    return find_workspace(workspace)


def _copy_project_files(workspace: Path) -> None:
    (workspace / "configs").mkdir(parents=True, exist_ok=True)
    for name in ("dvc.yaml", VERSIONS_FILE, ".dvcignore"):
        source = PROJECT / name
        if not source.exists():
            raise ConfigError(f"{source}: missing; install syncd from a checkout: pip install -e CHECKOUT")
        _write_if_changed(workspace / name, source.read_text(encoding="utf-8"))


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


def quiet_environment(workspace: Path) -> dict[str, str]:
    """The environment for Prefect, DVC and the stages: hermetic and quiet, unless the caller has said otherwise."""
    defaults = {
        "PREFECT_HOME": str(workspace / ".prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "true",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        "DO_NOT_TRACK": "1",
        "DVC_NO_ANALYTICS": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_VERBOSITY": "error",
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
    if runtime.prefect_api_url:
        environment["PREFECT_API_URL"] = runtime.prefect_api_url
    if runtime.offline:
        environment["HF_HUB_OFFLINE"] = "1"
    return environment
