"""`syncd doctor`: what this machine has and lacks, each lack with its fix."""

import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from configs.errors import ConfigError
from configs.schema import ModelRef, Recipe, Runtime

Verdict = Literal["ok", "note", "broken"]
PROBE = "from data.rendering import probe_backend; p = probe_backend(); print(p['renderer'], p['version'], sep=', ')"
PROBE_SECONDS = 120


@dataclass(frozen=True)
class Check:
    name: str
    verdict: Verdict
    detail: str
    fix: str = ""


def examine(workspace: Path, recipe: Recipe | None, runtime: Runtime) -> list[Check]:
    """Every check; `recipe` is the active one, if any."""
    machine = [_rendering(), _meshes(), _gpu(runtime), _disk(workspace, runtime), *_store(runtime), _browser()]
    checks = [_python(), *_pins(), _runner(runtime), _git(), *machine]
    if recipe is None:
        return [*checks, Check("recipe", "note", f"none active in {workspace}", "syncd run --recipe demo")]
    return [
        *checks,
        _assets(workspace, recipe, runtime),
        _training(workspace, recipe, runtime),
        *_models(recipe, runtime),
    ]


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info[:2] < (3, 13):
        return Check("python", "ok", version)
    return Check("python", "broken", f"{version}; needs 3.11 or 3.12", "make setup PYTHON=python3.11")


def _pins() -> list[Check]:
    """Installed packages against what this project requires."""
    try:
        required = importlib.metadata.requires("syncd") or []
    except importlib.metadata.PackageNotFoundError:
        return [Check("packages", "broken", "syncd is not installed", "make setup")]
    wrong = list(_wrong_pins(required, importlib.metadata.version))
    if not wrong:
        return [Check("packages", "ok", f"{len(required)} requirements met")]
    return [Check("packages", "broken", text, "pip install -c constraints.txt -e .") for text in wrong]


def _wrong_pins(required: list[str], version_of: Callable[[str], str]) -> Iterator[str]:
    from packaging.requirements import Requirement

    for text in required:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version_of(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield f"{requirement.name} is missing, needs {requirement.specifier or 'any version'}"
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            yield f"{requirement.name} is {found}, needs {requirement.specifier}"


def _runner(runtime: Runtime) -> Check:
    """What the runtime's runner needs beside the packages that every installation has."""
    name = runtime.runner
    if name not in ("dask", "ray"):
        return Check("runner", "ok", f"{name}, {runtime.workers} workers")
    if importlib.util.find_spec(f"prefect_{name}") is None:
        fix = f"pip install -c constraints.txt -e '.[{name}]'"
        return Check("runner", "broken", f"the runtime's runner is {name}, and prefect-{name} is not installed", fix)
    where = f"cluster at {runtime.cluster}" if runtime.cluster else f"{runtime.workers} workers of this machine"
    return Check("runner", "ok", f"{name} {importlib.metadata.version(name)}, {where}")


def _git() -> Check:
    if shutil.which("git"):
        return Check("git", "ok", shutil.which("git") or "")
    return Check("git", "note", "not found; statements will not name a commit", "apt-get install git")


def _rendering() -> Check:
    """Open the rendering back end in a process of its own: drivers may crash."""
    fix = "apt-get install -y libegl1 libgl1-mesa-dri (the CPU rasteriser), or the EGL libraries of the GPU driver"
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return Check("rendering", "broken", f"no answer in {PROBE_SECONDS} s", fix)
    if done.returncode == 0:
        return Check("rendering", "ok", done.stdout.strip())
    lines = done.stderr.strip().splitlines() or [f"the probe ended with {done.returncode}"]
    return Check("rendering", "broken", lines[-1][:300], fix)


def _meshes() -> Check:
    """How far the processes that parse meshes from outside are locked in."""
    from data.sandbox.client import SandboxError, probe

    try:
        found = probe()
    except SandboxError as error:
        return Check("meshes", "broken", str(error), "see what python -m data.sandbox.zygote needs; make setup")
    if not found.landlock:
        fix = "use a kernel with Landlock (5.13 or later, CONFIG_SECURITY_LANDLOCK), or trust where meshes come from"
        detail = "parsed in processes with limits, but this kernel has no Landlock: only open() is out of their reach"
        return Check("meshes", "note", detail, fix)
    user = ", as nobody" if found.privileges_dropped else ""
    return Check(
        "meshes", "ok", f"parsed in processes with limits, without files or network (Landlock {found.landlock}{user})"
    )


def _gpu(runtime: Runtime) -> Check:
    import torch

    devices = list(Path("/dev").glob("nvidia[0-9]*"))
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        return Check("gpu", "ok", f"{names}, torch {torch.__version__}")
    if runtime.device.startswith("cuda"):
        fix = "set device: cpu in the runtime, or install the driver and a CUDA build of torch"
        return Check("gpu", "broken", f"the runtime asks for {runtime.device}, torch sees no GPU", fix)
    if devices:
        fix = "install a CUDA build of torch, see https://pytorch.org/get-started"
        return Check("gpu", "note", f"{len(devices)} GPUs, but torch {torch.__version__} cannot use them", fix)
    return Check("gpu", "ok", f"none; the miniature runs on CPU (torch {torch.__version__})")


def _disk(workspace: Path, runtime: Runtime) -> Check:
    existing = next(path for path in (workspace, *workspace.parents) if path.exists())
    free = shutil.disk_usage(existing).free / 1e9
    detail = f"{free:.1f} GB free at {existing}"
    if free >= runtime.min_free_disk_gb:
        return Check("disk", "ok", detail)
    return Check(
        "disk",
        "broken",
        f"{detail}, the runtime's min_free_disk_gb is {runtime.min_free_disk_gb:g}",
        "free some space (syncd gc removes work folders of earlier recipes), or use --workspace on another disk",
    )


def _store(runtime: Runtime) -> Iterator[Check]:
    """The runtime's store, if it names one: whether it can be listed, and written once."""
    from data.store import Store, StoreError

    if runtime.store is None:
        return
    name = f"doctor-{uuid.uuid4().hex}"
    try:
        store = Store(runtime.store)
        once = store.create(name, b"once") and not store.create(name, b"twice")
        store.delete(name)
    except StoreError as error:
        message, _, fix = str(error).partition("; ")
        yield Check("store", "broken", message, fix or "correct store in the runtime")
        return
    if once:
        yield Check("store", "ok", f"{runtime.store}, written if absent")
    else:
        fix = "take a server that knows conditional writes (PUT with If-None-Match: *)"
        yield Check("store", "broken", f"{runtime.store} lets a name be written twice", fix)


def find_browser() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def _browser() -> Check:
    path = find_browser()
    if path:
        return Check("browser", "ok", path)
    return Check("browser", "note", "no Chromium; only the tests of the report need it", "apt-get install -y chromium")


def _assets(workspace: Path, recipe: Recipe, runtime: Runtime) -> Check:
    """The files that the recipe's source of objects reads."""
    from data.assets.base import SourceError
    from flows.inputs import input_values
    from tasks.assets import open_source

    try:
        input_values(recipe, workspace)
        source = open_source(recipe.assets, recipe.seed, runtime.model_dump(), workspace)
    except (ConfigError, SourceError) as error:
        message, _, fix = str(error).partition("; ")
        return Check("assets", "broken", message, fix or "correct the assets section of the recipe")
    return Check("assets", "ok", f"source {source.name}")


def _training(workspace: Path, recipe: Recipe, runtime: Runtime) -> Check:
    """Trackers, text-image pairs, and a GPU for every process."""
    import torch

    from data.pairs import PairsError, pair_tars
    from models.training.trackers import TrackerError, check_trackers

    section, gpus = recipe.train, torch.cuda.device_count()
    try:
        check_trackers(runtime.trackers)
    except TrackerError as error:
        return Check("training", "broken", str(error), "install its package, or take it out of the runtime's trackers")
    try:
        tars = [] if section.pairs is None else pair_tars(workspace / section.pairs)
    except (PairsError, OSError) as error:
        return Check("training", "broken", str(error), "set train.pairs to a folder of WebDataset tars")
    said = f"{section.processes} process{'es' if section.processes > 1 else ''}"
    if tars:
        said += f", {len(tars)} tars of text-image pairs"
    if 0 < gpus < section.processes and runtime.device != "cpu":
        fix = "set train.processes to as many as there are, or see models/training/processes.py for several machines"
        return Check("training", "note", f"{said}, a GPU each, and this machine has {gpus}", fix)
    return Check("training", "ok", said)


def _models(recipe: Recipe, runtime: Runtime) -> Iterator[Check]:
    """Each model of the recipe: a folder by its digest, a server by asking what it serves."""
    from models.registry import ModelError, locate, served_name

    for role, ref in recipe.models.by_role.items():
        if served_name(ref):
            yield _server(f"model {role}", ref, runtime)
            continue
        try:
            folder = locate(ref, offline=True)
        except ModelError as error:
            message, _, fix = str(error).partition("; ")
            yield Check(f"model {role}", "broken", message, fix or "correct the entry in configs/models.yaml")
            continue
        yield Check(f"model {role}", "ok", f"{ref.name} {ref.revision[:12]} at {_short(folder)}")


def _server(name: str, ref: ModelRef, runtime: Runtime) -> Check:
    """Asked once, and not for long: a server that hangs is no reason to hang."""
    from models.prompts.chat import ChatError
    from models.prompts.writers import server_of
    from models.registry import served_name

    model = served_name(ref)
    try:
        served = server_of(ref, {**runtime.model_dump(), "llm_retries": 0, "llm_timeout_s": 10.0}).models()
    except (ConfigError, ChatError) as error:
        message, _, fix = str(error).partition("; ")
        return Check(name, "broken", message, fix)
    if model not in served:
        return Check(
            name, "broken", f"{runtime.llm_base_url} lists {', '.join(served) or 'none'}", f"serve {model} there"
        )
    return Check(name, "ok", f"{model} at {runtime.llm_base_url}")


def _short(folder: Path) -> str:
    return re.sub(rf"^{re.escape(str(Path.home()))}", "~", str(folder))


def active_recipe(workspace: Path) -> Recipe | None:
    from configs.load import load_resolved
    from flows.graph import RECIPE_FILE

    path = workspace / RECIPE_FILE
    if not path.exists():
        return None
    try:
        return load_resolved(path)
    except ConfigError as error:
        raise ConfigError(f"{error}; write it again with: syncd run --recipe NAME") from error
