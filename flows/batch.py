"""One shard on its own, as a batch scheduler runs it: the receipt is all that the next run needs."""

from pathlib import Path

from configs.load import ConfigError, load_resolved
from configs.schema import Runtime
from data.shards import Receipt
from flows.engine import make_job, plan_shards, stage_context, threads_per_worker
from flows.graph import RECIPE_FILE, load_graph
from flows.inputs import check_inputs
from flows.mirror import bring_inputs
from flows.worker import limit_threads, make_shard, stage_module


def run_one_shard(stage: str, index: int, workspace: Path, runtime: Runtime, package: str = "tasks") -> Receipt:
    """Make shard `index` of `stage`, or return its receipt. ConfigError if the stage has no such shard."""
    graph = load_graph(workspace)
    module = stage_module(package, graph.node(stage).name)
    bring_inputs(graph, stage, workspace, runtime.store)
    check_inputs(graph, stage, load_resolved(workspace / RECIPE_FILE), workspace)
    ctx = stage_context(graph, stage, workspace, runtime)
    specs = plan_shards(module, ctx)
    if index >= len(specs):
        raise ConfigError(f"{stage} has {len(specs)} shards, numbered from 0; there is no shard {index}")
    limit_threads(threads_per_worker(runtime, len(specs)))
    return make_shard(make_job(ctx, specs[index], runtime, package, expected_bytes=0))
