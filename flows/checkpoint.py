"""`syncd evaluate --checkpoint FILE`: a published checkpoint on a published benchmark, without the pipeline around it.

The folder is no workspace of the pipeline: it holds the recipe, the digests of the files that it names, and in
`artifacts/evaluate` what the evaluate stage writes, with `evaluated.json` in place of a statement. The objects are made
as shards of the stage are, so that a run that was killed goes on where it stopped.
"""

import time
from collections.abc import Callable
from pathlib import Path

from configs.errors import ConfigError
from configs.load import dump_recipe, validated
from configs.schema import Recipe, Runtime
from data.provenance import signature_of
from data.shards import sha256_file, write_atomic
from data.stage import CheckpointFile, StageContext
from flows import mirror
from flows.engine import Progress, StageResult, make_shards, result_of, seen_options
from flows.graph import RECIPE_FILE, VERSIONS_FILE, load_graph, tracked_recipe, tracked_values
from flows.inputs import write_inputs
from flows.publishing import publish
from flows.runners import RUNNERS, Runner
from flows.worker import StageError, stage_module
from flows.workspace import PROJECT, locked

STAGE = "evaluate"
HEADER = "# The recipe of this evaluation, complete; written by syncd evaluate --checkpoint.\n"


def evaluate_by_flow(file: Path, recipe: Recipe, folder: Path, runtime: Runtime) -> None:
    """`evaluate_checkpoint` under Prefect with progress on the console; a mistake is told before Prefect starts."""
    chosen = fitting(recipe, file, folder)
    from prefect import flow

    from flows.console import stage_progress

    def body() -> None:
        with stage_progress(STAGE, runtime.log_level) as show:
            show.finish(evaluate_checkpoint(file, chosen, folder, runtime, on_progress=show.update))

    flow(body, name="evaluate a checkpoint", flow_run_name=STAGE, persist_result=False)()


def evaluate_checkpoint(
    file: Path,
    recipe: Recipe,
    folder: Path,
    runtime: Runtime,
    runner: Runner | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> StageResult:
    """Bring `folder`/artifacts/evaluate up to date. ConfigError if checkpoint, recipe or folder do not allow it."""
    clock = time.monotonic()
    chosen = fitting(recipe, file, folder)
    with locked(folder):
        ctx = _context(file.resolve(), chosen, folder.resolve(), runtime)
        module = stage_module("tasks", STAGE)
        work = make_shards(module, ctx, runtime, runner or RUNNERS[runtime.runner], on_progress, "tasks")
        if _context(file.resolve(), chosen, folder.resolve(), runtime).signature != ctx.signature:
            raise StageError(f"{file} or files of the benchmark changed while it ran; run the same command again")
        index = publish(module, ctx, work.receipts, work.failed)
        mirror.settle(ctx)
        mirror.publish(ctx)
    return result_of(ctx, work, index, time.monotonic() - clock)


def fitting(recipe: Recipe, file: Path, folder: Path) -> Recipe:
    """The recipe with the form that the checkpoint was trained in; ConfigError if the three do not fit together."""
    from models.header import read_metadata
    from models.training.record import CheckpointRecord
    from tasks.evaluation.making import check_base

    if (folder / "dvc.yaml").exists():
        raise ConfigError(f"{folder} is a workspace of the pipeline; name another folder with --workspace")
    if recipe.evaluate.benchmark == "held_out":
        raise ConfigError(
            "evaluate.benchmark is held_out, whose objects the stages render and prompts make; a checkpoint alone is "
            "evaluated on a published benchmark: --set evaluate.benchmark=dreambooth --set "
            "evaluate.benchmark_folder=PATH, or --recipe dreambooth"
        )
    try:
        record = CheckpointRecord.from_header(read_metadata(file))
    except FileNotFoundError as error:
        raise ConfigError(
            f"{file}: no such checkpoint; --checkpoint names a LoRA file with the header of SynCD"
        ) from error
    except (KeyError, ValueError) as error:
        raise ConfigError(f"{file}: its header does not describe a SynCD checkpoint ({error})") from error
    try:
        check_base(recipe, record, file, "take a recipe of that base model, or set models.customizer")
    except ValueError as error:
        raise ConfigError(str(error)) from error
    values = recipe.model_dump(mode="json")
    form = {"references": record.references, "lora_targets": record.lora_targets}
    noised = None if record.noised is None else record.noised.model_dump(mode="json")
    values["train"] |= {**form, "noised": noised}
    return validated(Recipe, values, str(file))


def _context(file: Path, recipe: Recipe, folder: Path, runtime: Runtime) -> StageContext:
    """Written down and signed as a stage is, with the checkpoint's digest in place of the train stage's."""
    graph = load_graph(PROJECT)
    (folder / "configs").mkdir(parents=True, exist_ok=True)
    write_atomic(folder / RECIPE_FILE, (HEADER + dump_recipe(recipe)).encode())
    write_atomic(folder / VERSIONS_FILE, (PROJECT / VERSIONS_FILE).read_bytes())
    write_inputs(recipe, folder)
    sha256 = sha256_file(file)
    return StageContext(
        stage=STAGE,
        recipe=tracked_recipe(graph, STAGE, recipe),
        workspace=folder,
        signature=signature_of(STAGE, tracked_values(graph.node(STAGE), folder), {"checkpoint": sha256}),
        device=runtime.device,
        options=seen_options(runtime),
        checkpoint=CheckpointFile(file, sha256),
    )
