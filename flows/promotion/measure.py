"""Evaluations that can be compared: with one yardstick, by which earlier models are measured again if need be."""

from collections.abc import Callable
from pathlib import Path

from configs.load import load_resolved
from configs.schema import Runtime
from data.ids import digest_of
from data.provenance import NOT_BYTES, signature_of
from data.shards import read_tar
from data.stage import CheckpointFile, StageContext
from flows.engine import Progress, make_shards, seen_options
from flows.graph import RECIPE_FILE, Graph, input_digests, load_graph, tracked_recipe, tracked_values
from flows.promotion.store import EVALUATE, Model, Store
from flows.runners import RUNNERS, Runner
from flows.worker import stage_module
from models.evaluation.files import as_parquet
from models.evaluation.record import EvaluationRecord

NOT_YARDSTICK = (*NOT_BYTES, "models.customizer", "shard_size")
"""What two evaluations may differ in and still be compared: the base model, and how the work was cut up."""


def yardstick(workspace: Path) -> str:
    """Digest of all that an evaluation depends on but the model: objects, prompts, seeds, sampling, metrics, nets."""
    node = load_graph(workspace).node(EVALUATE)
    params = {file: _without(values) for file, values in tracked_values(node, workspace).items()}
    return digest_of({"params": params, "inputs": _other_inputs(load_graph(workspace), workspace)})


def _without(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without(item) for key, item in value.items() if key not in NOT_YARDSTICK}
    return value


def _other_inputs(graph: Graph, workspace: Path) -> dict[str, str]:
    digests = input_digests(graph.node(EVALUATE), workspace)
    return {name: sha256 for name, sha256 in digests.items() if name != "train"}


def measure_by_flow(store: Store, model: Model, runtime: Runtime) -> None:
    """`measure` under Prefect, with progress on the console."""
    from prefect import flow

    from flows.console import stage_progress
    from flows.stopping import workers_end_on_sigterm

    def body() -> None:
        with workers_end_on_sigterm(), stage_progress(EVALUATE, runtime.log_level) as show:
            measure(store, model, runtime, RUNNERS[runtime.runner], show.update)

    flow(body, name="evaluate an earlier model", flow_run_name=model.short, persist_result=False)()


def measure(
    store: Store,
    model: Model,
    runtime: Runtime,
    runner: Runner,
    on_progress: Callable[[Progress], None] | None = None,
    package: str = "tasks",
) -> None:
    """Evaluate a kept model as the evaluate stage does now, and keep its scores; StageError if that fails.

    Its shards lie in a work folder of their own, so that a run that was killed goes on; the stage's output stays.
    """
    workspace = store.workspace
    graph = load_graph(workspace)
    params = tracked_values(graph.node(EVALUATE), workspace)
    inputs = _other_inputs(graph, workspace)
    ctx = StageContext(
        stage=EVALUATE,
        recipe=tracked_recipe(graph, EVALUATE, load_resolved(workspace / RECIPE_FILE)),
        workspace=workspace,
        signature=signature_of(EVALUATE, params, {**inputs, "checkpoint": model.digest}),
        inputs=tuple(inputs),
        device=runtime.device,
        options=seen_options(runtime),
        checkpoint=CheckpointFile(model.file, model.digest),
    )
    work = make_shards(stage_module(package, EVALUATE), ctx, runtime, runner, on_progress, package)
    records = [
        EvaluationRecord.model_validate(sample.record)
        for receipt in work.receipts
        for sample in read_tar((ctx.work_dir / receipt.name).read_bytes())
    ]
    scores = [
        {"object": record.object_id, **image.model_dump(mode="json", exclude={"guidance_norms"})}
        for record in records
        for image in record.images
    ]
    store.add_scores(model, yardstick(workspace), as_parquet(scores, {}))
